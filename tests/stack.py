"""Servers that belong together: the stack of tests, each part of which can be broken by itself, and `make run`."""

from __future__ import annotations

import http.client
import signal
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.servers import Nginx, Postgres, Redis, Replica, Server, free_ports


class Together(ABC):
    """Servers behind an nginx that are started and closed as one."""

    nginx: Nginx

    @property
    @abstractmethod
    def servers(self) -> list[Server]:
        """In the order in which they are started."""

    def start(self) -> None:
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_until_ready()

    def close(self) -> None:
        for server in reversed(self.servers):
            server.close()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of the answer, through nginx. body: NDJSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.nginx.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/x-ndjson"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Stack(Together):
    """nginx before two replicas that share a Postgres and a Redis; each can be broken by itself."""

    def __init__(self, folder: Path, replicas: int = 2, **env: str) -> None:
        """env: further SHOAL_ and NGINX_ variables."""
        self.folder = folder
        self.postgres = Postgres(folder / "postgres")
        self.redis = Redis(folder / "redis")
        self.replicas = [
            Replica(
                folder / f"replica-{number}",
                postgres_dsn=self.postgres.dsn,
                redis_url=self.redis.url,
                spool=folder / "spool",
                **env,
            )
            for number in range(1, replicas + 1)
        ]
        self.nginx = Nginx(folder / "nginx", [replica.address for replica in self.replicas], **env)

    @property
    def servers(self) -> list[Server]:
        return [self.postgres, self.redis, *self.replicas, self.nginx]


class Launcher(Server):
    """`make run` without make: a launcher with everything that it starts."""

    def __init__(self, folder: Path, replicas: int = 1, **env: str) -> None:
        self.port, *_ = free_ports(1 + replicas)
        [self.prometheus_port] = free_ports()
        env = {"PORT": str(self.port), "N": str(replicas), "PROMETHEUS_PORT": str(self.prometheus_port), **env}
        self.dsn = f"host={folder}/run user=postgres dbname=predictions"
        command = [sys.executable, "-m", "api.local"]
        super().__init__(
            command,
            folder,
            ready=self._ready_line,
            env=env,
            stop_signal=signal.SIGINT,
            start_seconds=90,
            stop_seconds=60,
        )

        self._said_before = 0

    def launch(self) -> None:
        self._said_before = len(self.log.read_text()) if self.log.exists() else 0
        super().launch()

    @property
    def output(self) -> str:
        """What it said since it was started."""
        return self.log.read_text()[self._said_before :]

    def _ready_line(self) -> bool:
        return "shoal: ready in" in self.output

    def members(self) -> list[psutil.Process]:
        """Whatever runs on this folder's state, wherever it hangs in the tree of processes."""
        return [each for each in psutil.process_iter() if _variable(each, "VAR") == str(self.folder)]

    def replica(self, number: int) -> psutil.Process:
        """The master of a replica."""
        [found] = [each for each in psutil.Process(self.pid).children() if each.name() == f"api.{number}"]
        return found


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        return str(process.environ().get(name))
    except psutil.Error:
        return None
