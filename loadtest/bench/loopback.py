"""Single requests to a subject, to see whether it is up and what it says of itself; and ports for it."""

from __future__ import annotations

import http.client
import random
import socket
from contextlib import ExitStack


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body."""
    return _ask(port, "GET", path, None)


def post(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and body."""
    return _ask(port, "POST", path, body)


def _ask(port: int, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to connections: one of these may be gone before its server gets to it."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = random.randrange(10_000, 32_000)
            probe = stack.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
        return found
