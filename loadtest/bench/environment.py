"""What the processes of a subject find in their environment, and how its nginx is started."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from api.local import replica
from loadtest.bench.subject import Stores, Subject
from loadtest.bench.wrk import CannotMeasure

ROOT = Path(__file__).resolve().parents[2]
# Two workers in all, as there are two cores, and in one replica: what is compared is then the same one gunicorn with
# two workers behind the same nginx, and no subject differs from another in how its requests are spread.
WORKERS = 2

# As long as a real answer.
CONSTANT = {
    "id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "prediction": 0,
    "label": "Adelie",
    "confidence": 0.998877,
    "model": "penguins",
    "version": "2",
    "cached": True,
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where a subject keeps its state, its sockets and its models; the ports of nginx and the replicas."""

    var: Path
    sockets: Path
    models: Path | None
    port: int
    app_ports: Sequence[int]

    @property
    def stores(self) -> Stores:
        dsn = f"host='{self.sockets}' user=postgres dbname=predictions"
        return Stores(dsn, self.sockets / "redis.sock")


def of(subject: Subject, places: Places, number: int = 1) -> dict[str, str]:
    """number: of the replica, from 1; the other processes are the same for all."""
    addresses = [f"127.0.0.1:{port}" for port in places.app_ports]
    ours = {
        "VAR": str(places.var),
        "SOCKETS": str(places.sockets),
        "VENV": sys.prefix,
        "PYTHONPATH": str(ROOT),
        "REPLICA": str(number),
        "SHOAL_BIND": addresses[number - 1],
        "SHOAL_WORKERS": str(WORKERS),
        "NGINX_LISTEN": f"127.0.0.1:{places.port}",
        "NGINX_UPSTREAMS": ",".join(addresses),
        "NGINX_RATE_LIMIT": "1000000r/s",  # the load is one address; its default is near the proxy limit
        "NGINX_RATE_BURST": "100000",
        "BENCH_REDIS_URL": f"unix://{places.stores.redis_socket}",
        "BENCH_POSTGRES_DSN": places.stores.dsn,
    }
    if places.models:
        ours |= {"SHOAL_MODEL_REPOSITORY": str(places.models), "SHOAL_DEFAULT_MODEL": subject.models[0]}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SHOAL_", "NGINX_"))}
    env = inherited | ours | subject.env
    return replica.settings(env) | env if subject.has_replica else env


def nginx_start(subject: Subject, places: Places) -> str:
    """The command; for nginx by itself, of a copy of its folder with a location that answers without an upstream.

    Raises:
        CannotMeasure: the configuration is not the one that we know.
    """
    if subject.app != "":
        return "nginx/start"
    folder = places.var / "nginx-constant"
    shutil.copytree(ROOT / "nginx", folder)
    conf = folder / "conf.d" / "api.conf"
    text = conf.read_text()
    constant = json.dumps(CONSTANT, separators=(",", ":"))
    location = f"    location ~ ^/ {{ default_type application/json; return 200 '{constant}'; }}\n"
    conf.write_text(text.replace("    location / {\n", f"{location}    location / {{\n", 1))
    if location not in conf.read_text():
        raise CannotMeasure("nginx/conf.d/api.conf has no `location /` to put the constant before")
    return str(folder / "start")
