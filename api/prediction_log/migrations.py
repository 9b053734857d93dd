"""Applies db/*.sql, once each and in order, whoever starts first; makes partitions ahead and drops old ones."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

from psycopg import AsyncConnection

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parents[2] / "db"
DAYS_AHEAD = 7  # a replica that runs makes tomorrow's partition long before it is needed
_LOCK = 0x5_4041  # of Postgres' advisory locks: one migrates, the others wait for it
_NAME = re.compile(r"(\d{3})_\w+\.sql")


class MigrationRefused(Exception):
    """A file that was applied has since been changed, or is gone: nobody knows what the database looks like."""


class Migration(NamedTuple):
    number: int
    name: str
    statements: str
    checksum: str


def read(folder: Path = FOLDER) -> list[Migration]:
    """The numbered files, in order."""
    found = []
    for file in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(file.name)
        if match is None:
            raise MigrationRefused(f"expected a name like 001_what.sql, got {file.name}")
        text = file.read_text()
        found.append(Migration(int(match[1]), file.name, text, hashlib.sha256(text.encode()).hexdigest()))
    return found


async def migrate(connection: AsyncConnection[tuple[Any, ...]], folder: Path = FOLDER) -> list[str]:
    """Brings the database up to date.

    Args:
        connection: in autocommit mode.
    Returns:
        The names of the files that this call applied.
    Raises:
        MigrationRefused: a file differs from what was applied.
    """
    migrations = read(folder)
    applied = []
    await connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (number integer PRIMARY KEY, name text NOT NULL,"
            " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        known = await _known(connection)
        _check(migrations, known)
        for migration in migrations:
            if migration.number in known:
                continue
            async with connection.transaction():
                await connection.execute(migration.statements.encode())
                await connection.execute(
                    "INSERT INTO schema_migrations (number, name, checksum) VALUES (%s, %s, %s)",
                    (migration.number, migration.name, migration.checksum),
                )
            applied.append(migration.name)
            logger.warning("applied %s", migration.name)
    finally:
        await connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
    return applied


async def keep_partitions(connection: AsyncConnection[tuple[Any, ...]], *, retention_days: int) -> None:
    """Makes the partitions of the days to come, and drops those that are older than the retention.

    Only one worker does so at a time; the others have nothing to do then.
    """
    today = dt.datetime.now(dt.UTC).date()
    async with connection.transaction():
        cursor = await connection.execute("SELECT pg_try_advisory_xact_lock(%s) AS got", (_LOCK,))
        row = await cursor.fetchone()
        if row is None or not row[0]:
            return
        # Either needs the table to itself for a moment: better to try again later than to hold up the log behind a
        # long query.
        await connection.execute("SET LOCAL lock_timeout = '1s'")
        for ahead in range(-1, DAYS_AHEAD + 1):
            await connection.execute("SELECT shoal_make_partition(%s)", (today + dt.timedelta(ahead),))
        before = today - dt.timedelta(retention_days)
        await connection.execute("SELECT shoal_drop_partitions(%s)", (before,))


async def _known(connection: AsyncConnection[tuple[Any, ...]]) -> dict[int, tuple[str, str]]:
    cursor = await connection.execute("SELECT number, name, checksum FROM schema_migrations")
    return {number: (name, checksum) for number, name, checksum in await cursor.fetchall()}


def _check(migrations: list[Migration], known: dict[int, tuple[str, str]]) -> None:
    files = {migration.number: migration for migration in migrations}
    for number, (name, checksum) in known.items():
        file = files.get(number)
        if file is None:
            # Applied by a newer replica, in the middle of a rolling update: it only adds, so this one may go on.
            logger.warning("%s was applied by a newer version", name)
        elif file.checksum != checksum:
            raise MigrationRefused(f"{file.name} was changed after it was applied; add a new file instead")
