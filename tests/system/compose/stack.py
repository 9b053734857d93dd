"""A stack of its own on the Docker engine: the commands of a user, and what the engine says about the containers."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.load import Load
from tests.servers import ROOT, eventually

# The port of each variable in .env.example.
PORTS = {
    "HTTP_PORT": 80,
    "DEV_PORT": 8000,
    "PROMETHEUS_PORT": 9090,
    "GRAFANA_PORT": 3000,
    "RABBITMQ_PORT": 15672,
    "HTTPS_PORT": 443,
}


class Stack:
    """One Compose project with ports of its own, where the usual ones are taken."""

    def __init__(self, project: str, *files: str, **environment: str) -> None:
        """files: for -f, in order; none for what `docker compose` takes by itself."""
        self.project = project
        self.ports = {name: port if _is_free(port) else _free_port() for name, port in PORTS.items()}
        self.environment = {
            # Nobody's .env and no setting of this shell: a fresh clone has neither.
            **{name: value for name, value in os.environ.items() if not name.startswith(("SHOAL_", "NGINX_"))},
            "COMPOSE_ENV_FILES": os.devnull,
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_PROGRESS": "plain",
            **{name: str(port) for name, port in self.ports.items()},
            **environment,
        }
        if files:
            self.environment["COMPOSE_FILE"] = ":".join(files)

    def shell(self, line: str, *, within_seconds: float = 120) -> str:
        """Run a line as a user types it, at the root of the repository, and return what it prints.

        Raises:
            AssertionError: it failed; with all that it said.
        """
        done = subprocess.run(
            line,
            shell=True,
            executable="/bin/bash",
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",  # a Redis key ends in bytes of a hash
            timeout=within_seconds,
        )
        assert done.returncode == 0, f"$ {line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def typed(self, line: str) -> str:
        """The same, for a line of the documentation: its ports become this stack's where those are taken."""
        for name, port in PORTS.items():
            line = line.replace(f"localhost:{port}", f"localhost:{self.ports[name]}")
        return self.shell(line)

    def load(self, **options: Any) -> Load:
        return Load("127.0.0.1", self.ports["HTTP_PORT"], **options)

    def job(self, rows: int, key: str = "none") -> str:
        """Submits a job of so many rows. Gives its id."""
        lines = f"for i in range({rows}): print(f'{{i % 97}}.5,18.7,{{i}}.25')"
        return self.shell(f'{sys.executable} -c "{lines}" | {self._jobs(key)} submit - --format csv').strip()

    def watch(self, job: str, key: str = "none") -> str:
        """Returns when it is done, and what was said of it."""
        return self.shell(f"{self._jobs(key)} watch {job} 2>&1").strip()

    def _jobs(self, key: str) -> str:
        url = f"http://127.0.0.1:{self.ports['HTTP_PORT']}"
        return f"{sys.executable} -m api jobs --url {url} --header 'X-API-Key: {key}'"

    # --- containers ---------------------------------------------------------------------------------------------------
    def containers(self, service: str = "") -> list[str]:
        """Ids of the running containers, oldest name first."""
        listed = [json.loads(line) for line in self.shell(f"docker compose ps --format json {service}").splitlines()]
        return [container["ID"] for container in sorted(listed, key=lambda container: container["Name"])]

    def inspect(self, container: str) -> dict[str, Any]:
        details: dict[str, Any] = json.loads(self.shell(f"docker inspect {container}"))[0]
        return details

    def is_healthy(self, container: str) -> bool:
        state = self.inspect(container)["State"]
        return bool(state["Running"]) and state.get("Health", {"Status": "healthy"})["Status"] == "healthy"

    def wait_until_healthy(self, container: str) -> None:
        eventually(
            lambda: self.is_healthy(container), within_seconds=120, because=f"{container} of {self.project} works"
        )

    # --- what the parts say -------------------------------------------------------------------------------------------
    def query(self, statement: str) -> list[str]:
        """Rows of the prediction log, as text."""
        return self.shell(
            f'docker compose exec -T postgres psql -U postgres -d predictions -qAt -c "{statement}"'
        ).splitlines()

    def metric(self, expression: str) -> dict[str, float]:
        """What Prometheus answers: job, or all labels where there is none, to value."""
        url = f"http://127.0.0.1:{self.ports['PROMETHEUS_PORT']}/api/v1/query?{urlencode({'query': expression})}"
        with urlopen(url, timeout=10) as reply:
            answer = json.load(reply)
        return {
            series["metric"].get("job", str(series["metric"])): float(series["value"][1])
            for series in answer["data"]["result"]
        }

    def upstreams(self, since: str) -> set[str]:
        """Addresses of the replicas that nginx had answers from; since: as `docker compose logs --since` takes it."""
        addresses = set()
        for line in self.shell(f"docker compose logs --no-log-prefix --since {since} nginx").splitlines():
            if line.startswith("{") and json.loads(line)["path"] == "/predict":
                addresses.add(re.split(", | : ", json.loads(line)["upstream"])[-1])
        return addresses

    @contextmanager
    def up(self, line: str) -> Iterator[None]:
        """Start with this line, and take all of it away in the end."""
        try:
            try:
                self.shell(line, within_seconds=900)
            except AssertionError:
                # pytest shows it: why a service did not start is in its log.
                print(self.shell("docker compose ps --all; docker compose logs --tail 50"))
                raise
            yield
        finally:
            self.down()

    def down(self) -> None:
        """Away with all of it: containers, networks, volumes, and the images that were built for it."""
        self.shell("docker compose down --volumes --remove-orphans --rmi local --timeout 5")

    def leftovers(self) -> str:
        """What the engine still has of this project: containers, volumes and networks."""
        label = f"--filter label=com.docker.compose.project={self.project}"
        return "".join(
            self.shell(f"docker {kind} ls {every} -q {label}")
            for kind, every in (("container", "-a"), ("volume", ""), ("network", ""))
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port: int = probe.getsockname()[1]
        return port


def make_secrets(folder: Path) -> None:
    """The files of production, made as compose.prod.yaml says, word for word; and a certificate for localhost."""
    comment = (ROOT / "compose.prod.yaml").read_text().split("name:")[0]
    lines = [line.removeprefix("#   ") for line in comment.splitlines() if line.startswith("#   ")]
    recipe = "\n".join(line for line in lines if not line.startswith("docker "))
    certificate = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        " -keyout secrets/tls/tls.key -out secrets/tls/tls.crt && chmod 644 secrets/tls/tls.*"
    )
    subprocess.run(["bash", "-euc", f"{recipe}\n{certificate}"], cwd=folder, check=True, capture_output=True)
