"""An open-loop load: requests go out at a steady rate, whatever becomes of those before them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self, cast

import uvloop

from loadtest.chaos.ledger import BROKEN, SILENT, Ledger
from loadtest.chaos.questions import Questions

# The ladder of waits begins with a client's patience, as in locustfile.py.
TIMEOUT_SECONDS = 20
# Beyond, requests wait in the load for one that is free; their latency counts from when they were due all the same.
_MAX_CONNECTIONS = 4_000
_BURST = 100  # requests sent in one turn of the event loop, so that answers are read meanwhile
_TICK_SECONDS = 0.001
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)


class Load:
    """A context manager: the load runs inside the block, in a thread of its own, and the ledger is complete after it.

    A client waits for its answer on its own connection, which the next one then takes over. Each request is sent once:
    what fails is counted, and not tried again. `rate` may be changed at any time.
    """

    def __init__(
        self, port: int, questions: Questions, rate: float, *, cores: Collection[int] = (), connections: int = 0
    ) -> None:
        """
        Args:
            rate: requests a second.
            cores: those that its thread keeps to; none: whichever are free.
            connections: so many are open before it begins; opening one costs more than a request.
        """
        self.questions = questions
        self.rate = rate
        self.ledger = Ledger()
        self._cores = cores
        self._first_connections = connections
        self._address = ("127.0.0.1", port)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="load")
        self._failure: BaseException | None = None
        self._in_flight: dict[int, _Connection] = {}  # in the order in which they were sent
        self._waiting: deque[int] = deque()  # numbers, for a connection
        self._idle: list[_Connection] = []
        self._connections: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self.began = 0.0
        self.behind_seconds = 0.0
        """How late the next request is."""

    def __enter__(self) -> Self:
        self._thread.start()
        while not self.began and self._failure is None:
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Sends no more, and returns when all that was sent has ended. What went wrong in the load itself is raised."""
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @property
    def connections(self) -> int:
        return len(self._connections)

    # --- its thread ---------------------------------------------------------------------------------------------------
    def _work(self) -> None:
        if self._cores:
            os.sched_setaffinity(0, self._cores)  # of this thread
        try:
            with contextlib.closing(uvloop.new_event_loop()) as loop:
                loop.set_exception_handler(self._on_failure)
                loop.run_until_complete(self._run())
        except BaseException as error:  # noqa: BLE001  raised again by stop
            self._failure = self._failure or error

    def _on_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised: a fault of the load, whose figures are then worth nothing."""
        self._failure = self._failure or context.get("exception") or RuntimeError(context["message"])
        self._stop.set()

    async def _run(self) -> None:
        for _ in range(self._first_connections):
            connection = _Connection(self)
            await connection.open(*self._address)
            self.idle(connection)
        looked = due = self.began = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            self.behind_seconds = now - (self.ledger.due[self._waiting[0]] if self._waiting else due)
            for _ in range(_BURST):
                if due > now:
                    break
                self._send(due, now)
                due += 1 / self.rate
            if now - looked > 0.25:
                looked = now
                self._give_up_on_the_silent(now)
            await asyncio.sleep(0 if due <= now else max(due - now, _TICK_SECONDS))
        while self._in_flight or self._waiting:
            self._give_up_on_the_silent(time.monotonic())
            await asyncio.sleep(0.01)
        for opening in self._opening:  # given up while they waited for a server that did not accept them
            opening.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._connections):
            connection.transport.abort()
        while self._connections:  # noqa: ASYNC110  they are lost within a turn or two
            await asyncio.sleep(_TICK_SECONDS)

    def _send(self, due: float, now: float) -> None:
        number = self.ledger.begin(due, now)
        connection = None
        while self._idle and (connection is None or connection.transport.is_closing()):
            connection = self._idle.pop()
        if connection is not None and not connection.transport.is_closing():
            self._in_flight[number] = connection
            connection.send(number, self.questions.message(number))
        elif len(self._in_flight) >= _MAX_CONNECTIONS:
            self._waiting.append(number)
        else:
            self._connect(number)

    def _connect(self, number: int) -> None:
        self.ledger.sent[number] = time.monotonic()
        connection = self._in_flight[number] = _Connection(self)
        connection.number = number
        task = asyncio.get_running_loop().create_task(self._open(connection, number))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: _Connection, number: int) -> None:
        try:
            await connection.open(*self._address)
        except OSError as error:
            self.ended(connection, BROKEN, f"no connection: {error}".encode())
            self.closed(connection)  # who waits for a connection gets a try of his own
            return
        if connection.number == number:  # else it was given up meanwhile
            connection.send(number, self.questions.message(number))
        else:
            connection.transport.abort()

    def _give_up_on_the_silent(self, now: float) -> None:
        overdue = now - TIMEOUT_SECONDS
        for number, connection in list(self._in_flight.items()):
            if self.ledger.sent[number] > overdue:
                return
            self.ended(connection, SILENT)
            connection.give_up()

    # --- its connections ----------------------------------------------------------------------------------------------
    def opened(self, connection: _Connection) -> None:
        self._connections.add(connection)

    def ended(self, connection: _Connection, status: int, body: bytes = b"", retry_after: int = -1) -> None:
        number, connection.number = connection.number, -1
        if number >= 0:
            del self._in_flight[number]
            self.ledger.end(number, time.monotonic(), status, body, retry_after)

    def idle(self, connection: _Connection) -> None:
        if not self._waiting:
            self._idle.append(connection)
            return
        number = self._waiting.popleft()
        self.ledger.sent[number] = time.monotonic()
        self._in_flight[number] = connection
        connection.send(number, self.questions.message(number))

    def closed(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if self._waiting and len(self._in_flight) < _MAX_CONNECTIONS:
            self._connect(self._waiting.popleft())
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as a client that sends one request, and the next when it has its answer."""

    transport: asyncio.Transport

    def __init__(self, load: Load) -> None:
        self.number = -1
        """Of the request that waits for its answer."""
        self._load = load
        self._came = b""

    async def open(self, host: str, port: int) -> None:
        """Raises OSError."""
        await asyncio.get_running_loop().create_connection(lambda: self, host, port)

    def send(self, number: int, message: bytes) -> None:
        self.number = number
        self.transport.write(message)

    def give_up(self) -> None:
        if hasattr(self, "transport"):
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._load.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._came:
            data = self._came + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._came = data
            return
        head = data[: end + 2]
        length = _LENGTH.search(head)
        if length is None:
            self._load.ended(self, BROKEN, b"an answer without its length: " + head)
            self.transport.abort()
            return
        begin, whole = end + 4, end + 4 + int(length[1])
        if len(data) < whole:
            self._came = data
            return
        self._came = b""
        retry_after = _RETRY_AFTER.search(head)
        self._load.ended(self, int(head[9:12]), data[begin:whole], int(retry_after[1]) if retry_after else -1)
        if b"\r\nConnection: close" in head:
            self.transport.close()
        elif not self.transport.is_closing():
            self._load.idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.ended(self, BROKEN, f"the connection was closed before the answer: {error or 'in order'}".encode())
        self._load.closed(self)
