"""Where the log goes while Postgres is away: a SQLite file on a volume that the replicas share."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from api.prediction_log.record import FORMAT, id_of

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spool (
    id     BLOB PRIMARY KEY,    -- of the prediction: a row spooled twice is one row
    format INTEGER NOT NULL,    -- of the bytes
    row    BLOB NOT NULL        -- a tuple of COPY BINARY, see record.py
);
CREATE TABLE IF NOT EXISTS refused (
    id     BLOB PRIMARY KEY,    -- rows that Postgres would not take: kept, and out of the others' way
    format INTEGER NOT NULL,
    row    BLOB NOT NULL,
    reason TEXT NOT NULL
);
"""
_BUSY_SECONDS = 5  # several workers commit to the one file, each for a few ms


class SpoolBroken(Exception):
    """The rows could not be made durable here either."""


class Spool:
    """Not for the event loop: every call may wait for the disk. One thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "spool.sqlite"
        self._connection: sqlite3.Connection | None = None

    def append(self, rows: Sequence[bytes]) -> None:
        """Packed rows, durable when this returns; a row that is there already stays as it is.

        Raises:
            SpoolBroken: none of them is.
        """
        try:
            with self._transaction() as connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO spool VALUES (?, ?, ?)", [(id_of(row), FORMAT, row) for row in rows]
                )
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise SpoolBroken(f"{self._file}: {error}") from error

    def count(self) -> int:
        """Rows that wait for Postgres. Raises SpoolBroken."""
        try:
            (rows,) = self._open().execute("SELECT count(*) FROM spool").fetchone()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise SpoolBroken(f"{self._file}: {error}") from error
        return int(rows)

    def peek(self, limit: int) -> list[bytes]:
        """The oldest rows, which stay. Ids begin with their time, so their order is the order of time."""
        found = self._open().execute("SELECT row FROM spool WHERE format = ? ORDER BY id LIMIT ?", (FORMAT, limit))
        return [row for (row,) in found]

    def remove(self, rows: Sequence[bytes]) -> None:
        """Rows that Postgres has."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM spool WHERE id = ?", [(id_of(row),) for row in rows])

    def set_aside(self, row: bytes, reason: str) -> None:
        """A row that Postgres does not take for what is in it."""
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO refused VALUES (?, ?, ?, ?)", (id_of(row), FORMAT, row, reason))
            connection.execute("DELETE FROM spool WHERE id = ?", (id_of(row),))

    @contextmanager
    def replaying(self) -> Iterator[bool]:
        """Whether the caller is the one, of all workers of all replicas, who replays now."""
        # The kernel lets go of the lock when its holder dies, however it dies.
        descriptor = os.open(self._folder / "replay.lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = self._connect()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise  # a full disk or a missing permission, not a damaged file
                self._move_aside(error)
                self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # NORMAL would lose the last commits when the power goes
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _move_aside(self, error: sqlite3.DatabaseError) -> None:
        stamp = time.time_ns()
        for file in self._folder.glob("spool.sqlite*"):
            file.rename(file.with_name(f"damaged-{stamp}-{file.name}"))
        logger.error("the spool was damaged (%s); it is kept as damaged-%d-*, and a new one begun", error, stamp)
