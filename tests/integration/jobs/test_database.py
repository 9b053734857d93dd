"""Transactions of jobs, when who began them does not go on."""

from __future__ import annotations

import psycopg
import pytest

from api.errors import JobsUnavailable
from api.jobs import database
from tests.conftest import Database


async def test_what_a_frozen_process_has_locked_is_let_go(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_TRANSACTION_SECONDS", 1)
    with psycopg.connect(postgres.dsn, autocommit=True) as other:
        other.execute("CREATE TABLE things (number int)")
        other.execute("SET lock_timeout = '20s'")
        frozen = database.Database(dsn=postgres.dsn, password=None, pool_size=1)
        await frozen.open()

        async def freeze() -> None:
            async with frozen.transaction() as connection:
                await connection.execute("LOCK TABLE things")
                other.execute("INSERT INTO things VALUES (1)")  # which keeps this process from anything else
                await connection.execute("INSERT INTO things VALUES (2)")

        with pytest.raises(JobsUnavailable):
            await freeze()
        await frozen.close()
        assert other.execute("SELECT number FROM things").fetchall() == [(1,)]
