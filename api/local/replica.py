"""One replica as a plain process: its settings, then gunicorn as in the image. For api/start and the launcher.

REPLICA  its number, from 1 (default 1): it listens on 127.0.0.1:8080 + REPLICA unless SHOAL_BIND says otherwise
VAR      where state is kept (default var); the spool in it is shared by the replicas
SOCKETS  directory of the Unix sockets of Postgres and Redis (default $VAR/run)

Every SHOAL_ variable of settings.py holds here too.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# What takes the time when a replica starts: 2.6 of 3.5 s. Nothing of ours, which reads the environment when imported,
# and not prometheus_client, which opens its files then.
SHARED = ("torch.export.pt2_archive._package", "fastapi_offline", "psycopg_pool", "redis.asyncio", "uvicorn_worker")


def import_shared() -> None:
    """So that processes forked from this one need not, and have it in common."""
    for name in SHARED:
        importlib.import_module(name)


def settings(env: Mapping[str, str]) -> dict[str, str]:
    """What a replica finds in its environment unless something else is set there."""
    number = env.get("REPLICA", "1")
    var = Path(env.get("VAR", "var")).resolve()
    sockets = Path(env.get("SOCKETS", var / "run")).resolve()
    return {
        "SHOAL_BIND": f"127.0.0.1:{8080 + int(number)}",
        "SHOAL_POSTGRES_DSN": f"host='{sockets}' user=postgres dbname=predictions",
        "SHOAL_REDIS_URL": f"unix://{sockets}/redis.sock",
        "SHOAL_SPOOL_DIR": str(var / "spool"),
        "SHOAL_ADMIN_TOKEN_FILE": str(var / "admin_token"),
        "PROMETHEUS_MULTIPROC_DIR": str(var / "metrics" / number),
    }


def main() -> None:
    """Does not return: it is the replica from here on."""
    for name, value in settings(os.environ).items():
        os.environ.setdefault(name, value)
    Path(os.environ["SHOAL_SPOOL_DIR"]).mkdir(parents=True, exist_ok=True)

    from gunicorn.app.wsgiapp import run  # type: ignore[import-untyped]

    sys.argv = ["gunicorn", "--config", "api/gunicorn.conf.py", "api.app:create_app()"]
    run()


if __name__ == "__main__":
    main()
