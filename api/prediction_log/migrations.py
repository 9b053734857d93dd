"""The numbered SQL files of db/, applied once each by whoever comes first; and the partitions that they define."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

from psycopg import AsyncConnection

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parents[2] / "db"

# Of a Postgres advisory lock: any number, as long as nothing else uses it.
_LOCK = 0x53_68_6F_61_6C  # "Shoal"
_PARTITIONS_LOCK = _LOCK + 1

# For so many days nobody need look after partitions; then rows go to the default one, from where they move later.
_DAYS_AHEAD = 7

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name        text        PRIMARY KEY,
    sha256      text        NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE schema_migrations IS 'Which files of db/ were applied to this database.';
COMMENT ON COLUMN schema_migrations.name IS 'Name of the file.';
COMMENT ON COLUMN schema_migrations.sha256 IS 'Of its content when it was applied, hex.';
COMMENT ON COLUMN schema_migrations.applied_at IS 'When it was applied.';
"""


class MigrationRefused(Exception):
    """A file that was applied has changed since, so this database is not what the files say."""


class Migration(NamedTuple):
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load(folder: Path = FOLDER) -> list[Migration]:
    """In the order in which they are applied."""
    return [Migration(path.name, path.read_text("utf-8")) for path in sorted(folder.glob("[0-9]*.sql"))]


async def pending(connection: AsyncConnection[Any], migrations: list[Migration]) -> list[Migration]:
    """Those that are not applied yet. Raises as `migrate`."""
    return _missing(migrations, await _applied(connection))


async def migrate(connection: AsyncConnection[Any], migrations: list[Migration] | None = None) -> None:
    """Apply what is missing, all of it or nothing. Costs one query where nothing is.

    A migration that the database has and `migrations` has not is fine: a newer release runs beside this one.

    Args:
        connection: in autocommit mode.
        migrations: from `load`; None: those of db/.
    Raises:
        MigrationRefused: an applied file was changed.
        psycopg.Error: Postgres went away, or a file's SQL is wrong.
    """
    migrations = load() if migrations is None else migrations
    if not await pending(connection, migrations):
        return
    async with connection.transaction():
        # Workers and replicas start together: one applies, the others wait here and then find nothing to do.
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        await connection.execute(_TABLE)
        for migration in _missing(migrations, await _applied(connection)):
            await connection.execute(migration.sql.encode())
            await connection.execute(
                "INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", (migration.name, migration.sha256)
            )
            logger.info("applied %s", migration.name)


async def keep_partitions(connection: AsyncConnection[Any], *, retention_days: int) -> None:
    """Make the partitions of the next days, drop those over `retention_days` old. Left to whoever is at it already.

    Args:
        connection: in autocommit mode.
    Raises:
        psycopg.Error: Postgres went away, or a lock was not to be had at once; try again later.
    """
    # Two statements, and so two transactions: the locks of the one are gone before the other takes its own.
    for what, function, arguments in (
        ("made", "ensure_prediction_partitions(%s, %s)", (_DAYS_AHEAD, retention_days)),
        ("dropped", "drop_prediction_partitions(%s)", (retention_days,)),
    ):
        query = f"SELECT CASE WHEN pg_try_advisory_xact_lock(%s) THEN ARRAY(SELECT {function}) END"
        row = await (await connection.execute(query.encode(), (_PARTITIONS_LOCK, *arguments))).fetchone()
        for name in (row and row[0]) or ():
            logger.info("%s partition %s", what, name)


async def _applied(connection: AsyncConnection[Any]) -> dict[str, str]:
    cursor = await connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
    row = await cursor.fetchone()
    if row is None or not row[0]:
        return {}
    return dict(await (await connection.execute("SELECT name, sha256 FROM schema_migrations")).fetchall())


def _missing(migrations: list[Migration], applied: dict[str, str]) -> list[Migration]:
    for migration in migrations:
        if applied.get(migration.name, migration.sha256) != migration.sha256:
            raise MigrationRefused(
                f"db/{migration.name} was changed after it was applied to this database; "
                "undo the change, and put it into a new file with the next number"
            )
    return [migration for migration in migrations if migration.name not in applied]
