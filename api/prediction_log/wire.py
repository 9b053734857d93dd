"""COPY over libpq itself, without psycopg's cursors, and a way to end what no server answers any more."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus


class PostgresAway(Exception):
    """Nothing came back from Postgres; what was sent may or may not have been committed."""


class Wire:
    """Sends statements, one at a time, over a connection that psycopg has opened, and that is ours from then on.

    A commit of the log costs the event loop 20 us + 0.3 us a row this way, of which it is the greater part under little
    load; with `cursor.copy()` it is 115 us + 0.6 us (one core, uvloop, psycopg 3.3 with its C extension, socket on the
    same machine). What it saves is waking a coroutine, and adding to and removing from the loop, for each of the six
    steps. The reader stays registered instead, which also notices at once when an idle connection breaks.
    """

    def __init__(self, connection: AsyncConnection[Any], on_lost: Callable[[str], None]) -> None:
        """connection: in autocommit mode, idle. on_lost: told why, once, unless `close` was called before."""
        self._connection = connection
        self._pgconn = connection.pgconn
        self._fd = self._pgconn.socket
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[None] | None = None
        self._data: Callable[[], bytes] | None = None
        self._error: psycopg.Error | None = None
        self.is_open = True
        self._loop.add_reader(self._fd, self._on_readable)

    async def execute(self, statement: bytes, data: Callable[[], bytes] | None = None) -> None:
        """Run SQL.

        Args:
            data: gives what a COPY … FROM STDIN in it gets. Asked once, when Postgres waits for it.
        Raises:
            psycopg.Error: Postgres said no. The connection is fine.
            PostgresAway: the connection was lost before the answer came.
        """
        if not self.is_open:
            raise PostgresAway("the connection was lost")
        self._data = data
        self._error = None
        self._answer = self._loop.create_future()
        try:
            try:
                self._pgconn.send_query(statement)
                self._flush()
            except psycopg.Error as error:
                self.lose(str(error))
            await self._answer
        finally:
            if not self._answer.done() or self._answer.cancelled():
                self.lose("the statement's caller left half way")  # nobody may use the connection after him
            self._answer = None

    def lose(self, reason: str) -> None:
        """Give the connection up: whoever waits for an answer gets PostgresAway at once. Never blocks."""
        if self.is_open:
            self.close()
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(PostgresAway(reason))
            self._on_lost(reason)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._pgconn.finish()

    def _flush(self) -> None:
        if self._pgconn.flush():
            self._loop.add_writer(self._fd, self._on_writable)

    def _on_writable(self) -> None:
        try:
            if not self._pgconn.flush():
                self._loop.remove_writer(self._fd)
        except psycopg.Error as error:
            self.lose(str(error))

    def _on_readable(self) -> None:
        try:
            self._pgconn.consume_input()
            while self.is_open and not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    self._finish()
                    return
                if result.status == ExecStatus.COPY_IN:
                    self._loop.call_soon(self._copy)  # after what else this turn of the loop brings
                    return  # libpq would go on giving the same result
                if result.status == ExecStatus.FATAL_ERROR:
                    self._error = error_from_result(result)
        except psycopg.Error as error:
            self.lose(str(error))

    def _copy(self) -> None:
        if not self.is_open:
            return
        try:
            if self._pgconn.put_copy_data(self._data() if self._data else b"") and self._pgconn.put_copy_end():
                self._flush()
            else:
                self.lose("libpq did not take the data")
        except psycopg.Error as error:
            self.lose(str(error))

    def _finish(self) -> None:
        if self._answer is None or self._answer.done():
            return
        if self._error is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(self._error)


def sever(connection: AsyncConnection[Any]) -> None:
    """Break a connection from this side: whoever waits on it gets an OperationalError at once.

    Cancelling him instead would ask the server to cancel the query, and wait for its answer.
    """
    if connection.pgconn.socket >= 0:
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as same:
            try:
                same.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is broken already


@contextmanager
def severed_after(connection: AsyncConnection[Any], seconds: float) -> Iterator[None]:
    """Bounds what happens inside, though the server answer nothing: after `seconds` the connection is severed."""
    timer = asyncio.get_running_loop().call_later(seconds, sever, connection)
    try:
        yield
    finally:
        timer.cancel()
