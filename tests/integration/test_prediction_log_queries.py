"""Reading the log back: by id, and in pages that nothing shifts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from api.errors import InvalidParameters, QueryUnavailable
from api.prediction_log import PredictionLog
from tests.conftest import Database
from tests.prediction_rows import Record, pack, prediction_log, record

NOW = time.time_ns() // 1_000_000
DAY = 86_400_000


@pytest.fixture
async def log(postgres: Database, tmp_path: Path) -> AsyncIterator[PredictionLog]:
    async with prediction_log(postgres.dsn, tmp_path) as log:
        yield log


async def add(log: PredictionLog, *records: Record) -> list[str]:
    """Ids, newest first."""
    await log.append([pack(each) for each in records])
    return [str(each.id) for each in sorted(records, key=lambda each: (each.unix_ms, each.id.bytes), reverse=True)]


async def pages(log: PredictionLog, **asked: Any) -> list[list[str]]:
    found = []
    cursor: str | None = None
    while True:
        rows, cursor = await log.queries.page(**asked, cursor=cursor)
        found.append([row["id"] for row in rows])
        if cursor is None:
            return found


def at(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1000, UTC)


def flat(pages: list[list[str]]) -> list[str]:
    return [id for page in pages for id in page]


async def test_pages_give_each_row_once_newest_first_also_within_a_millisecond(log: PredictionLog) -> None:
    records = [record(unix_ms=NOW - n // 10) for n in range(45)]
    ids = await add(log, *records)

    found = await pages(log, limit=10)

    assert [len(page) for page in found] == [10, 10, 10, 10, 5]
    assert flat(found) == ids


async def test_a_full_last_page_says_that_it_is_the_last(log: PredictionLog) -> None:
    await add(log, *(record() for _ in range(20)))

    assert [len(page) for page in await pages(log, limit=10)] == [10, 10]


async def test_rows_that_arrive_while_somebody_reads_shift_nothing(log: PredictionLog) -> None:
    ids = await add(log, *(record(unix_ms=NOW - 1000 - n) for n in range(30)))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        rows, cursor = await log.queries.page(limit=7, cursor=cursor)
        seen += [row["id"] for row in rows]
        if cursor is None:
            break
        await add(log, *(record(unix_ms=NOW + n) for n in range(5)))
    assert seen == ids


async def test_pages_go_on_into_rows_of_long_ago(log: PredictionLog) -> None:
    records = [record(unix_ms=NOW - days * DAY) for days in (0, 1, 3, 10, 20, 45, 80) for _ in range(3)]
    ids = await add(log, *records)

    assert flat(await pages(log, limit=4)) == ids
    assert flat(await pages(log, limit=100)) == ids


async def test_pages_are_of_one_model_one_version_one_time(log: PredictionLog) -> None:
    records = [
        record(unix_ms=NOW - n * 3_600_000, model=("penguins", "digits")[n % 2], version="12"[n % 3 == 0])
        for n in range(60)
    ]
    await add(log, *records)

    def expected(keep: Any) -> list[str]:
        return [str(each.id) for each in records if keep(each)]

    assert flat(await pages(log, model="digits", limit=7)) == expected(lambda r: r.model == "digits")
    assert flat(await pages(log, model="digits", version="2", limit=7)) == expected(
        lambda r: (r.model, r.version) == ("digits", "2")
    )
    assert flat(await pages(log, version="1", limit=7)) == expected(lambda r: r.version == "1")
    since, until = at(records[40].unix_ms), at(records[10].unix_ms)
    assert flat(await pages(log, since=since, until=until, limit=7)) == expected(
        lambda r: records[40].unix_ms <= r.unix_ms < records[10].unix_ms
    )
    assert await log.queries.page(model="whales") == ([], None)
    assert await log.queries.page(until=at(0)) == ([], None)
    assert await log.queries.page(since=datetime.max.replace(tzinfo=UTC)) == ([], None)
    assert await log.queries.page(until=datetime.min.replace(tzinfo=UTC)) == ([], None)


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"cursor": "forged"}, "next_cursor"),
        ({"cursor": ""}, "next_cursor"),
        ({"cursor": "ä"}, "next_cursor"),
        ({"cursor": "f" * 32}, "next_cursor"),  # of a year that no calendar has
        ({"model": "a\0b"}, "NUL"),
        ({"version": "\0"}, "NUL"),
        ({"model": "\ud800"}, "Unicode"),
        ({"since": datetime(2026, 1, 31)}, "since with its zone"),
        ({"until": datetime(2026, 1, 31)}, "until with its zone"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(log: PredictionLog, asked: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidParameters, match=what):
        await log.queries.page(**asked)


async def test_a_row_is_found_by_its_id_in_its_partition_alone(log: PredictionLog, postgres: Database) -> None:
    records = [record(unix_ms=NOW - days * DAY) for days in (0, 3, 80)]
    await add(log, *records)

    for each in records:
        found = await log.queries.get(each.id)
        assert found is not None
        assert (found["id"], found["request_id"]) == (str(each.id), each.request_id)
    with psycopg.connect(postgres.dsn) as connection:
        plan = connection.execute(
            "EXPLAIN SELECT * FROM predictions WHERE timestamp = %s AND id = %s", (at(NOW), records[0].id)
        ).fetchall()
    assert str(plan).count("Scan") == 1


@pytest.mark.parametrize("id", [uuid4(), UUID(int=0), UUID(int=2**128 - 1)])
async def test_an_id_that_nobody_gave_finds_nothing(log: PredictionLog, id: UUID) -> None:
    assert await log.queries.get(id) is None


async def test_a_query_that_takes_too_long_is_ended(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.prediction_log.queries._QUERY_SECONDS", 0.2)
    async with prediction_log(postgres.dsn, tmp_path) as log:
        with psycopg.connect(postgres.dsn) as other:
            other.execute("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(QueryUnavailable, match="ask for a shorter time"):
                await log.queries.page()
        assert await log.queries.page() == ([], None)


async def test_more_queries_than_connections_wait_for_one_another(log: PredictionLog) -> None:
    await add(log, record())
    answers = await asyncio.gather(*(log.queries.page() for _ in range(20)))

    assert all(len(rows) == 1 for rows, _ in answers)


async def test_a_days_old_page_costs_no_look_into_later_days(log: PredictionLog) -> None:
    old = await add(log, *(record(unix_ms=NOW - 10 * DAY + n) for n in range(5)))
    await add(log, *(record() for _ in range(5)))

    rows, _ = await log.queries.page(until=at(NOW) - timedelta(days=5), limit=3)

    assert [row["id"] for row in rows] == old[:3]
