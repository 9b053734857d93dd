"""What the gunicorn worker of a replica does without its master."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil  # type: ignore[import-untyped]
import pytest

from tests.servers import Server, eventually, free_ports


class Gunicorn(Server):
    def __init__(self, folder: Path) -> None:
        [self.port] = free_ports()
        options = ["--bind", f"127.0.0.1:{self.port}", "--workers", "1"]
        super().__init__(
            [
                sys.executable,
                "-m",
                "gunicorn",
                "--config",
                "api/gunicorn.conf.py",
                *options,
                "tests.system.pid_app:app",
            ],
            folder,
            ready=self.ask,
            env={"PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")},
        )

    def ask(self) -> int:
        """The pid of the worker that answers."""
        with urlopen(f"http://127.0.0.1:{self.port}/", timeout=10) as reply:
            return int(reply.read())


@pytest.fixture
def gunicorn(folders: Callable[[], Path]) -> Iterator[Callable[[], Gunicorn]]:
    servers: list[Gunicorn] = []

    def start() -> Gunicorn:
        servers.append(Gunicorn(folders()))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_a_worker_without_its_master_ends(gunicorn: Callable[[], Gunicorn]) -> None:
    server = gunicorn()
    worker = psutil.Process(server.ask())

    os.kill(server.pid, signal.SIGKILL)

    eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, within_seconds=15)
    server.kill()
