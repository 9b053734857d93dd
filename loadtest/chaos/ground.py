"""Where scenarios take place: stacks, one after the other, and whether they are whole."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from loadtest.chaos.reconcile import spooled
from tests.servers import eventually
from tests.stack import Stack

_WHOLE_SECONDS = 90


class Ground:
    """Starts stacks. One that is whole is left to the next scenario that wants the same, which saves it the start."""

    def __init__(self, folder: Path) -> None:
        """folder: empty, on a real disk, with a short path: a socket's holds 107 characters."""
        self.folder = folder
        self._stack: Stack | None = None
        self._key: tuple[int, Mapping[str, str]] | None = None
        self._number = 0
        self._leave = ExitStack()

    def stack(self, replicas: int, env: Mapping[str, str]) -> Stack:
        """A stack that runs, is whole, and whose log is empty."""
        if self._stack is None or self._key != (replicas, env):
            self.clear()
            self._stack, self._key = Stack(self.empty_folder(), replicas, **env), (replicas, env)
            self._stack.start()
        wait_until_whole(self._stack)
        self._stack.postgres.execute("TRUNCATE predictions", "predictions")
        return self._stack

    def empty_folder(self) -> Path:
        self._number += 1
        folder = self.folder / str(self._number)
        folder.mkdir()
        return folder

    def at_the_end(self, close: Callable[[], None]) -> None:
        """To be called when the ground is cleared."""
        self._leave.callback(close)

    def clear(self) -> None:
        """Stop what runs."""
        self._leave.close()
        if self._stack is not None:
            stack, self._stack = self._stack, None
            stack.close()


def wait_until_whole(stack: Stack) -> None:
    """Until every part is up and says so, and the spool is empty."""
    for replica in stack.replicas:
        eventually(
            lambda port=replica.port: health(port)["status"] == "ok",  # type: ignore[misc]
            within_seconds=_WHOLE_SECONDS,
            because=f"the replica at {replica.address} is well",
        )
    wait_until_spool_is_empty(stack)


def wait_until_spool_is_empty(stack: Stack) -> None:
    eventually(lambda: not spooled(stack.folder / "spool"), within_seconds=_WHOLE_SECONDS, because="the spool is empty")


def health(port: int) -> dict[str, Any]:
    """Raises OSError, http.client.HTTPException: it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()


def metric(stack: Stack, name: str) -> list[float]:
    """A metric of each replica that answers, its labels added up."""
    values = []
    for replica in stack.replicas:
        try:
            values.append(metric_of(replica.port, name))
        except (OSError, http.client.HTTPException):
            continue
    return values


def metric_of(port: int, name: str) -> float:
    """The same of one process; with labels behind the name, of those alone. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
