"""The log's own connection: group commits with binary COPY, on a time limit that also holds for a silent server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from api.prediction_log import migrations
from api.prediction_log.record import COLUMNS

logger = logging.getLogger(__name__)

_COPY = f"COPY predictions ({COLUMNS}) FROM STDIN (FORMAT binary)".encode()
_STAGE = b"CREATE TEMP TABLE IF NOT EXISTS staged (LIKE predictions) ON COMMIT DELETE ROWS"
_COPY_STAGED = f"COPY staged ({COLUMNS}) FROM STDIN (FORMAT binary)".encode()
_MOVE = f"INSERT INTO predictions ({COLUMNS}) SELECT {COLUMNS} FROM staged ON CONFLICT DO NOTHING".encode()  # noqa: S608
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_CONNECT_SECONDS = 2


class PostgresAway(Exception):
    """It did not commit, or did not say so in time: whether the rows are there is unknown."""


class RowRefused(Exception):
    """Postgres works, and does not take what is in one of the rows."""


class LogConnection:
    """One connection that commits rows. For one caller at a time."""

    def __init__(self, dsn: str, password: str | None, *, timeout_seconds: float) -> None:
        """timeout_seconds: of a commit, and of each step of opening."""
        self._dsn = dsn
        self._password = password
        self._timeout_seconds = timeout_seconds
        self._connection: AsyncConnection[Any] | None = None
        self._abandoned: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Connects, and brings the database up to date.

        Raises:
            PostgresAway: it cannot be reached, or is not ready.
            migrations.MigrationRefused: its history is not ours.
        """
        self.close()
        connection = await self._bounded(self._connect(), _CONNECT_SECONDS + 1)
        try:
            # Somebody else may be migrating, which takes what it takes.
            await self._bounded(migrations.migrate(connection), 60)
            # No wait for a lock, here or in a commit, outlasts the time limit of a commit.
            limit = f"{int(self._timeout_seconds * 1000)}ms"
            await self._bounded(connection.execute(sql.SQL("SET lock_timeout = {}").format(limit)))
        except BaseException:
            connection.pgconn.finish()
            raise
        self._connection = connection

    async def keep_partitions(self, retention_days: int) -> None:
        """See migrations.keep_partitions. Raises PostgresAway, RowRefused."""
        await self._bounded(migrations.keep_partitions(self._get(), retention_days=retention_days))

    async def commit(self, rows: Sequence[bytes]) -> None:
        """Packed rows, durable when this returns.

        Raises:
            PostgresAway: unknown whether they are. Commit them elsewhere, and here again later with `commit_again`.
            RowRefused: none of them is: one is there already, or is something that Postgres does not take.
        """
        await self._bounded(self._copy(self._get(), _COPY, rows))

    async def commit_again(self, rows: Sequence[bytes]) -> None:
        """As `commit`, for rows of which some may be there already. Costs about three times as much."""
        await self._bounded(self._copy_new(self._get(), rows))

    def close(self) -> None:
        """At once. What is under way on it ends as PostgresAway."""
        if self._connection is not None:
            self._connection.pgconn.finish()
            self._connection = None

    def _get(self) -> AsyncConnection[Any]:
        if self._connection is None:
            raise PostgresAway("not connected")
        return self._connection

    async def _connect(self) -> AsyncConnection[Any]:
        return await AsyncConnection.connect(
            self._dsn,
            password=self._password,
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
            application_name="shoal log",
            options="-c timezone=UTC",
        )

    async def _copy(self, connection: AsyncConnection[Any], statement: bytes, rows: Sequence[bytes]) -> None:
        async with connection.cursor() as cursor, cursor.copy(statement) as copy:
            await copy.write(b"".join((_HEADER, *rows, _TRAILER)))

    async def _copy_new(self, connection: AsyncConnection[Any], rows: Sequence[bytes]) -> None:
        await connection.execute(_STAGE)
        async with connection.transaction():
            await self._copy(connection, _COPY_STAGED, rows)
            await connection.execute(_MOVE)

    async def _bounded(self, work: Coroutine[Any, Any, Any], seconds: float | None = None) -> Any:
        """The work's result, or PostgresAway within the time limit, also when the server says nothing at all.

        A timeout alone would not do: psycopg answers a cancellation by asking the server to cancel, and waits for it.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task}, timeout=self._timeout_seconds if seconds is None else seconds)
        except BaseException:
            self._abandon(task)
            raise
        if not task.done():
            self._abandon(task)
            raise PostgresAway("no answer in time")
        try:
            return task.result()
        except (psycopg.errors.DataError, psycopg.errors.IntegrityError) as error:
            raise RowRefused(_one_line(error)) from error
        except (psycopg.Error, OSError) as error:
            raise PostgresAway(_one_line(error)) from error

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        """Lets it end by itself, seconds later perhaps, and never uses its connection again."""
        connection, self._connection = self._connection, None
        self._abandoned.add(task)

        def ended(task: asyncio.Task[Any]) -> None:
            self._abandoned.discard(task)
            if not task.cancelled():
                task.exception()  # read, so that nobody warns that it was not
            if connection is not None:
                connection.pgconn.finish()

        task.add_done_callback(ended)
        task.cancel()


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
