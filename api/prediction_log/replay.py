"""Moves the spool into Postgres when it is back, a chunk at a time, whichever process gets to do it."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from api import metrics
from api.prediction_log import statements
from api.prediction_log.spool import Spool, SpooledRow
from api.prediction_log.wire import severed_after

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 1000
_CHUNK_BYTES = 2 * 1024 * 1024
_CHUNK_SECONDS = 30  # then the connection is given up; what was committed is simply found to be there next time


class Replay:
    """One in each worker; a lock beside the spool lets one of all of them work."""

    def __init__(self, spool: Spool, pool: AsyncConnectionPool[Any], folder: Path) -> None:
        self._spool = spool
        self._pool = pool
        self._lock = folder / "replay.lock"

    async def run(self) -> None:
        """Returns when the spool is empty, or somebody else is at it.

        Works half of the time at most, so live commits keep the other half of Postgres and of the disk.

        Raises:
            psycopg.Error, SpoolUnavailable, OSError: the rest stays in the spool.
        """
        with _try_lock(self._lock) as is_ours:
            if not is_ours:
                return
            moved = 0
            begun = time.monotonic()
            while rows := await self._spool.oldest(max_rows=_CHUNK_ROWS, max_bytes=_CHUNK_BYTES):
                moved += await self._move(rows)
                await self._spool.shrink()
                await asyncio.sleep(min(time.monotonic() - begun, 1))
                begun = time.monotonic()
            if moved:
                logger.info("moved %d rows from the spool to Postgres", moved)

    async def _move(self, rows: list[SpooledRow]) -> int:
        async with self._pool.connection(timeout=2) as connection:
            with severed_after(connection, _CHUNK_SECONDS):
                refused = await _insert(connection, rows)
        # Only now: were we to die before this, the next one would find them in Postgres.
        await self._spool.remove([row.id for row in rows if row.id not in refused])
        for id, reason in refused.items():
            await self._spool.put_aside(id, reason)
            logger.critical("row %s of the spool is put aside, Postgres refuses it: %s", id.hex(), reason)
        moved = len(rows) - len(refused)
        metrics.SPOOL_REPLAYED_ROWS.inc(moved)
        return moved


async def _insert(connection: AsyncConnection[Any], rows: list[SpooledRow]) -> dict[bytes, str]:
    """Commit rows that may be there already. A row that Postgres refuses is found by halving: id to reason."""
    try:
        async with connection.transaction(), connection.cursor() as cursor:
            await cursor.execute(f"SET LOCAL statement_timeout = {_CHUNK_SECONDS * 1000}".encode())
            await cursor.execute(statements.STAGE)
            async with cursor.copy(statements.COPY_STAGED) as copy:
                await copy.write(statements.copy_data(row.row for row in rows))
            await cursor.execute(statements.INSERT_STAGED)
        return {}
    except psycopg.Error as error:
        if not statements.blames_a_row(error):
            raise
        if len(rows) == 1:
            return {rows[0].id: error.diag.message_primary or "refused"}
    half = len(rows) // 2
    return await _insert(connection, rows[:half]) | await _insert(connection, rows[half:])


@contextmanager
def _try_lock(path: Path) -> Iterator[bool]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)
