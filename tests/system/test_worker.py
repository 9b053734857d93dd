"""What the gunicorn worker of a replica does with what is no request, and without its master."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
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


@pytest.mark.parametrize(
    "request_line",
    [b"GET / HTTP/1.1\r\nX: a\x01b\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"],
)
def test_what_is_no_request_gets_a_problem(gunicorn: Callable[[], Gunicorn], request_line: bytes) -> None:
    server = gunicorn()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request_line)
        response = http.client.HTTPResponse(client)
        response.begin()
        problem = json.loads(response.read())

    assert response.status == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "urn:shoal:problem:malformed-request"
    assert server.ask()  # and it goes on


def test_a_worker_without_its_master_ends(gunicorn: Callable[[], Gunicorn]) -> None:
    server = gunicorn()
    worker = psutil.Process(server.ask())

    os.kill(server.pid, signal.SIGKILL)

    eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, within_seconds=15)
    server.kill()
