"""What the gunicorn worker of a replica owes its master, and what it does without one."""

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

PATIENCE_SECONDS = 2


class Gunicorn(Server):
    def __init__(self, folder: Path, *, start_seconds: float) -> None:
        [self.port] = free_ports()
        options = ["--bind", f"127.0.0.1:{self.port}", "--workers", "1", "--timeout", str(PATIENCE_SECONDS)]
        super().__init__(
            [
                sys.executable,
                "-m",
                "gunicorn",
                "--config",
                "api/gunicorn.conf.py",
                *options,
                "tests.system.slow_app:app",
            ],
            folder,
            ready=self.ask,
            env={"START_SECONDS": str(start_seconds), "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")},
        )

    def ask(self) -> int:
        """The pid of the worker that answers."""
        with urlopen(f"http://127.0.0.1:{self.port}/", timeout=10) as reply:
            return int(reply.read())


@pytest.fixture
def gunicorn(folders: Callable[[], Path]) -> Iterator[Callable[[float], Gunicorn]]:
    servers: list[Gunicorn] = []

    def start(start_seconds: float) -> Gunicorn:
        servers.append(Gunicorn(folders(), start_seconds=start_seconds))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_a_worker_that_takes_its_time_to_start_is_not_killed_for_it(gunicorn: Callable[[float], Gunicorn]) -> None:
    server = gunicorn(2.5 * PATIENCE_SECONDS)

    assert "TIMEOUT" not in server.log.read_text()
    assert server.ask() == psutil.Process(server.pid).children()[0].pid


def test_a_worker_without_its_master_ends(gunicorn: Callable[[float], Gunicorn]) -> None:
    server = gunicorn(0)
    worker = psutil.Process(server.ask())

    os.kill(server.pid, signal.SIGKILL)

    eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, within_seconds=15)
    server.kill()
