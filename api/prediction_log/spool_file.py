"""The spool's file: SQLite, shared by every worker and replica on the volume. Blocks; the loop uses spool.py."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from api.prediction_log.record import FORMAT, id_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spooled (id BLOB PRIMARY KEY, format INTEGER NOT NULL, row BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused (
    id BLOB PRIMARY KEY, format INTEGER NOT NULL, row BLOB NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
-- How many are spooled, kept by triggers: counting them would read the whole file, and it is asked every second.
CREATE TABLE IF NOT EXISTS tally (rows INTEGER NOT NULL);
INSERT INTO tally SELECT count(*) FROM spooled WHERE NOT EXISTS (SELECT 1 FROM tally);
CREATE TRIGGER IF NOT EXISTS spooled_one AFTER INSERT ON spooled BEGIN UPDATE tally SET rows = rows + 1; END;
CREATE TRIGGER IF NOT EXISTS removed_one AFTER DELETE ON spooled BEGIN UPDATE tally SET rows = rows - 1; END;
"""
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SpoolUnavailable(Exception):
    """The spool takes nothing: no directory, no space, no rights, or a disk that fails or hangs."""


class SpooledRow(NamedTuple):
    id: bytes
    row: bytes
    """Packed."""


class SpoolFile:
    """One process's view of the file. Every use holds a lock on the directory, so processes queue up in the kernel
    instead of polling SQLite's own lock, and a file found broken can be put away while nobody writes to it.

    The volume may be shared by containers of one machine; locks and WAL do not work over a network.
    Every method raises SpoolUnavailable. Use from one thread at a time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "spool.sqlite3"
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    def add(self, rows: Sequence[bytes]) -> int:
        """Make packed rows durable; one that is there already is fine. Returns how many rows are spooled."""

        def insert(connection: sqlite3.Connection) -> int:
            connection.executemany(
                "INSERT OR IGNORE INTO spooled VALUES (?, ?, ?)", ((id_of(row), FORMAT, row) for row in rows)
            )
            return _tally(connection)

        return self._write(insert)

    def count(self) -> int:
        """How many rows are spooled."""
        return self._use(_tally)

    def check(self) -> int:
        """Write to the disk, to see whether it takes writes. Returns how many rows are spooled."""

        def touch(connection: sqlite3.Connection) -> int:
            connection.execute("UPDATE tally SET rows = rows")
            return _tally(connection)

        return self._write(touch)

    def oldest(self, *, max_rows: int, max_bytes: int) -> list[SpooledRow]:
        """The first by time; at least one if there is any. Rows in the format of another release are left to it."""

        def select(connection: sqlite3.Connection) -> list[SpooledRow]:
            found: list[SpooledRow] = []
            size = 0
            cursor = connection.execute(
                "SELECT id, row FROM spooled WHERE format = ? ORDER BY id LIMIT ?", (FORMAT, max_rows)
            )
            for values in cursor:
                found.append(SpooledRow(*values))
                size += len(found[-1].row)
                if size >= max_bytes:
                    break
            cursor.close()
            return found

        return self._use(select)

    def remove(self, ids: Sequence[bytes]) -> int:
        """Forget rows that Postgres has. Returns how many are left."""

        def delete(connection: sqlite3.Connection) -> int:
            connection.executemany("DELETE FROM spooled WHERE id = ?", ((id,) for id in ids))
            return _tally(connection)

        return self._write(delete)

    def put_aside(self, id: bytes, reason: str) -> int:
        """Keep a row that Postgres will never take where it holds up nobody. Returns how many others are left."""

        def move(connection: sqlite3.Connection) -> int:
            connection.execute(
                "INSERT OR REPLACE INTO refused SELECT id, format, row, ? FROM spooled WHERE id = ?", (reason, id)
            )
            connection.execute("DELETE FROM spooled WHERE id = ?", (id,))
            return _tally(connection)

        return self._write(move)

    def shrink(self) -> None:
        """Give the space of removed rows back to the volume, a few MB a call."""
        # As a script: execute() would take one step of it, which is one page.
        self._use(lambda connection: connection.executescript("PRAGMA incremental_vacuum(1000)"))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- using the file -----------------------------------------------------------------------------------------------
    def _write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = operation(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

        return self._use(transaction)

    def _use(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self._locked():
                try:
                    return operation(self._open())
                except sqlite3.DatabaseError as error:
                    if not _is_corruption(error):
                        raise
                    self._put_file_aside(error)
                    return operation(self._open())
        except (OSError, sqlite3.Error) as error:
            self.close()  # whatever state it is in, the next attempt begins anew
            raise SpoolUnavailable(f"{self.path}: {error}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder / "spool.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _open(self) -> sqlite3.Connection:
        """The connection to the file that has the name now: another process may have put the broken one away."""
        if self._connection is not None and self._inode == _inode(self.path):
            return self._connection
        self.close()
        connection = sqlite3.connect(self.path, timeout=1, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or never
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # WAL's default, NORMAL, may lose the last commits
            connection.executescript(_SCHEMA)
            _sync_directory(self.folder)  # the name of a new file is durable only then
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._inode = _inode(self.path)
        return connection

    def _put_file_aside(self, error: Exception) -> None:
        self.close()
        aside = self.path.with_name(f"{self.path.name}.corrupt-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(f"{self.path}{suffix}"):
                os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")
        logger.critical(
            "the spool is corrupt (%s); it was moved to %s, and what is in it is NOT replayed; a new one is begun",
            error,
            aside,
        )


def _is_corruption(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    # A short read: the file ends before what it is said to hold. Other errors of reading are the disk's.
    return code & 0xFF in _CORRUPT or code == sqlite3.SQLITE_IOERR_SHORT_READ


def _tally(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT rows FROM tally").fetchone()[0])


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
