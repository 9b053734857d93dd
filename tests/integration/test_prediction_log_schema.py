"""Migrations are applied once; partitions come and go without losing a row."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from api.prediction_log import LogStatus, migrations
from api.prediction_log.migrations import Migration, MigrationRefused, keep_partitions, migrate
from api.prediction_log.record import COLUMNS
from tests.conftest import Database
from tests.prediction_rows import id_in, logged, prediction_log, row
from tests.servers import eventually_async as eventually

ONE = Migration("001_one.sql", "CREATE TABLE one (n integer); INSERT INTO one VALUES (1)")
TWO = Migration("002_two.sql", "INSERT INTO one VALUES (2)")


@pytest.fixture
async def empty(empty_postgres: Database) -> AsyncIterator[AsyncConnection[Any]]:
    async with await AsyncConnection.connect(empty_postgres.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def migrated(postgres: Database) -> AsyncIterator[AsyncConnection[Any]]:
    async with await AsyncConnection.connect(postgres.dsn, autocommit=True) as connection:
        yield connection


async def all_of(connection: AsyncConnection[Any], query: str) -> list[Any]:
    return [values[0] for values in await (await connection.execute(query.encode())).fetchall()]


# --- migrations -------------------------------------------------------------------------------------------------------
async def keep(connection: AsyncConnection[Any], *, retention_days: int) -> None:
    """keep_partitions when nobody else is at it: to a log that has just been opened it would be left."""
    await connection.execute("SELECT pg_advisory_lock(%s)", (migrations._PARTITIONS_LOCK,))
    try:
        await keep_partitions(connection, retention_days=retention_days)
    finally:
        await connection.execute("SELECT pg_advisory_unlock(%s)", (migrations._PARTITIONS_LOCK,))


async def test_each_migration_is_applied_once_whoever_comes_first(empty_postgres: Database) -> None:
    async def worker() -> None:
        async with await AsyncConnection.connect(empty_postgres.dsn, autocommit=True) as connection:
            await migrate(connection, [ONE, TWO])

    async with asyncio.timeout(20):
        await asyncio.gather(*(worker() for _ in range(6)))

    with psycopg.connect(empty_postgres.dsn) as connection:
        assert connection.execute("SELECT n FROM one ORDER BY n").fetchall() == [(1,), (2,)]
        applied = connection.execute("SELECT name, sha256 FROM schema_migrations ORDER BY name").fetchall()
    assert applied == [(ONE.name, ONE.sha256), (TWO.name, TWO.sha256)]


async def test_only_what_is_new_is_applied(empty: AsyncConnection[Any]) -> None:
    await migrate(empty, [ONE])
    await migrate(empty, [ONE, TWO])
    await migrate(empty, [ONE])  # an older release beside a newer one

    assert await all_of(empty, "SELECT n FROM one ORDER BY n") == [1, 2]


async def test_an_applied_migration_that_was_changed_is_refused(empty: AsyncConnection[Any]) -> None:
    await migrate(empty, [ONE])

    changed = ONE._replace(sql=ONE.sql + "; INSERT INTO one VALUES (3)")
    with pytest.raises(MigrationRefused, match=r"db/001_one\.sql was changed .* a new file with the next number"):
        await migrate(empty, [changed, TWO])

    assert await all_of(empty, "SELECT n FROM one") == [1]


async def test_a_migration_that_fails_leaves_nothing_behind(empty: AsyncConnection[Any]) -> None:
    with pytest.raises(psycopg.errors.SyntaxError):
        await migrate(empty, [ONE, TWO._replace(sql="INSERT INTO one VALUES (2); this is not SQL")])

    assert await all_of(empty, "SELECT count(*) FROM pg_class WHERE relname IN ('one', 'schema_migrations')") == [0]
    await migrate(empty, [ONE, TWO])


async def test_a_log_does_not_open_on_a_schema_of_another_history(postgres: Database, tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("UPDATE schema_migrations SET sha256 = 'of something else'")

    with pytest.raises(MigrationRefused, match=r"001_predictions\.sql"):
        async with asyncio.timeout(5), prediction_log(postgres.dsn, tmp_path):
            pass


async def test_workers_that_open_at_once_on_an_empty_database_all_log(empty_postgres: Database, tmp_path: Path) -> None:
    rows = [row() for _ in range(4)]

    async def worker(mine: bytes) -> None:
        async with prediction_log(empty_postgres.dsn, tmp_path) as log:
            assert log.status() == LogStatus(True, True, 0)
            await log.append([mine])

    await asyncio.gather(*map(worker, rows))
    assert set(logged(empty_postgres.dsn)) == {id_in(each) for each in rows}


async def test_the_files_are_numbered_without_a_gap() -> None:
    names = [migration.name for migration in migrations.load()]

    assert [int(name[:3]) for name in names] == list(range(1, len(names) + 1))
    assert all(re.fullmatch(r"\d{3}_[a-z_]+\.sql", name) for name in names)


async def test_the_table_reads_well_and_says_what_its_columns_are(migrated: AsyncConnection[Any]) -> None:
    columns = await all_of(
        migrated,
        "SELECT attname::text FROM pg_attribute"
        " WHERE attrelid = 'predictions'::regclass AND attnum > 0 ORDER BY attnum",
    )
    assert columns == list(COLUMNS)
    for table in ("predictions", "schema_migrations", "cache_epochs"):
        without = await all_of(
            migrated,
            f"SELECT attname::text FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0"
            " AND col_description(attrelid, attnum) IS NULL",
        )
        assert without == []


# --- partitions -------------------------------------------------------------------------------------------------------
def day_name(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("predictions_%Y_%m_%d")


def unix_ms(days: int) -> int:
    return int((datetime.now(UTC) + timedelta(days=days)).timestamp() * 1000)


async def partitions(connection: AsyncConnection[Any]) -> list[str]:
    found = await all_of(
        connection, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'predictions'::regclass"
    )
    return sorted(found)


async def partition_of(connection: AsyncConnection[Any], packed: bytes) -> list[str]:
    return await all_of(connection, f"SELECT tableoid::regclass::text FROM predictions WHERE id = '{id_in(packed)}'")


async def test_the_next_days_have_their_partitions(migrated: AsyncConnection[Any]) -> None:
    await keep_partitions(migrated, retention_days=90)

    assert await partitions(migrated) == [*(day_name(days) for days in range(-1, 8)), "predictions_default"]


async def test_a_row_is_never_refused_and_moves_when_its_day_gets_a_partition(
    postgres: Database, migrated: AsyncConnection[Any], tmp_path: Path
) -> None:
    late, long_ago, far_ahead, of_today = (row(unix_ms=unix_ms(days)) for days in (-30, -400, 300, 0))
    await migrated.execute(f"DROP TABLE {day_name(0)}".encode())
    async with prediction_log(postgres.dsn, tmp_path, upkeep_seconds=60) as log:
        await log.append([late, long_ago, far_ahead, of_today])

        await keep(migrated, retention_days=90)

        assert await partition_of(migrated, late) == [day_name(-30)]
        assert await partition_of(migrated, of_today) == [day_name(0)]
        assert await partition_of(migrated, far_ahead) == ["predictions_default"]
        assert await partition_of(migrated, long_ago) == []  # over its time
        found = await log.queries.get(id_in(far_ahead))
        assert found is not None


async def test_partitions_are_made_under_load_without_a_refused_or_lost_row(
    postgres: Database, migrated: AsyncConnection[Any], tmp_path: Path
) -> None:
    await migrated.execute(f"DROP TABLE {day_name(0)}".encode())
    answered: list[bytes] = []
    done = asyncio.Event()

    async def call() -> None:
        while not done.is_set():
            mine = row()
            await log.append([mine])
            answered.append(mine)

    async with prediction_log(postgres.dsn, tmp_path, upkeep_seconds=60) as log, asyncio.TaskGroup() as callers:
        for _ in range(8):
            callers.create_task(call())
        await eventually(lambda: len(answered) > 200)
        before = len(answered)
        while day_name(0) not in await partitions(migrated):
            try:
                await keep(migrated, retention_days=90)
            except psycopg.errors.LockNotAvailable:
                continue  # as upkeep would, later
        await eventually(lambda: len(answered) > before + 200)
        done.set()
    assert set(logged(postgres.dsn)) == {id_in(each) for each in answered}
    assert {name for each in answered for name in await partition_of(migrated, each)} == {day_name(0)}


async def test_days_over_the_retention_are_dropped_and_no_others(
    postgres: Database, migrated: AsyncConnection[Any], tmp_path: Path
) -> None:
    rows = {days: row(unix_ms=unix_ms(-days)) for days in (0, 5, 6, 7, 8, 40)}
    async with prediction_log(postgres.dsn, tmp_path, upkeep_seconds=60, retention_days=90) as log:
        await log.append(list(rows.values()))
    await keep(migrated, retention_days=90)
    assert len(logged(postgres.dsn)) == 6

    await keep(migrated, retention_days=6)

    assert set(logged(postgres.dsn)) == {id_in(rows[days]) for days in (0, 5, 6)}
    assert day_name(-7) not in await partitions(migrated)
    assert day_name(-6) in await partitions(migrated)


async def test_an_open_log_keeps_partitions_by_itself(postgres: Database, tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"DROP TABLE {day_name(7)}".encode())
        async with prediction_log(postgres.dsn, tmp_path):
            await eventually(
                lambda: connection.execute("SELECT to_regclass(%s) IS NOT NULL", (day_name(7),)).fetchone() == (True,)
            )


async def test_a_query_sees_every_row_while_rows_move_to_a_partition_of_their_own(
    postgres: Database, migrated: AsyncConnection[Any], tmp_path: Path
) -> None:
    async with prediction_log(postgres.dsn, tmp_path, upkeep_seconds=60) as log:
        for days in range(10, 60):
            await log.append([row(unix_ms=unix_ms(-days)) for _ in range(2)])
            moving = asyncio.create_task(keep(migrated, retention_days=90))
            while not moving.done():
                rows, _ = await log.queries.page(limit=1000)
                assert len(rows) == 2 * (days - 9)
            with suppress(psycopg.errors.LockNotAvailable):
                await moving


async def test_a_reader_who_takes_all_day_does_not_hold_up_the_log(
    postgres: Database, migrated: AsyncConnection[Any], tmp_path: Path
) -> None:
    async with prediction_log(postgres.dsn, tmp_path, upkeep_seconds=60) as log:
        await log.append([row(unix_ms=unix_ms(-30))])
        await keep(migrated, retention_days=90)
        with psycopg.connect(postgres.dsn) as reader:
            reader.execute("SELECT count(*) FROM predictions")  # and its transaction stays open

            dropping = asyncio.create_task(keep(migrated, retention_days=10))
            while not dropping.done():
                async with asyncio.timeout(1.5):
                    await log.append([row()])
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await dropping
        assert log.status().postgres_up
        await keep(migrated, retention_days=10)
    assert day_name(-30) not in await partitions(migrated)
