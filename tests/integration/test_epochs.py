"""Flushes: what is left behind, by whom, and what is not when Postgres is away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from api.cache.epochs import Epochs
from api.cache.keys import KeySpace
from api.cache.local import LocalCache
from api.errors import FlushUnavailable
from api.lifespan import Programs
from api.models.repository import Repository
from api.prediction_log import migrations
from api.settings import Settings
from tests.conftest import Database
from tests.integration.conftest import ADMIN, served
from tests.servers import Postgres, Redis
from tests.servers import eventually_async as eventually

ROW = b"a row"
VERSIONS = [("penguins", "1"), ("penguins", "2"), ("digits", "1")]


class Worker:
    """What flushes have to do with, of one worker."""

    def __init__(self) -> None:
        self.keys = {each: KeySpace(*each, "ab" * 32) for each in VERSIONS}
        self.local = LocalCache[int](100)
        self.epochs: Epochs

    def key(self, model: str, version: str) -> bytes:
        return self.keys[model, version].key(ROW)

    def all_keys(self) -> list[bytes]:
        return [self.key(*each) for each in VERSIONS]


@asynccontextmanager
async def worker(dsn: str) -> AsyncIterator[Worker]:
    one = Worker()
    async with Epochs(
        dsn=dsn, password=None, keys=one.keys, local=one.local, retry_seconds=0.05, check_seconds=0.2
    ) as one.epochs:
        yield one


async def test_workers_agree_on_keys_whatever_they_missed(postgres: Database) -> None:
    async with worker(postgres.dsn) as old:
        assert (await old.epochs.flush("penguins", None)).workers == 1
        async with worker(postgres.dsn) as new:
            assert new.all_keys() == old.all_keys()


async def test_a_flush_has_reached_every_worker_when_it_returns(postgres: Database) -> None:
    async with worker(postgres.dsn) as one, worker(postgres.dsn) as two, worker(postgres.dsn) as three:
        before = two.all_keys()

        flushed = await one.epochs.flush("penguins", None)

        assert (flushed.workers, flushed.pending) == (3, 0)
        after = two.all_keys()
        assert [new == old for new, old in zip(after, before, strict=True)] == [False, False, True]
        assert one.all_keys() == three.all_keys() == after


async def test_a_flush_of_one_version_leaves_the_others(postgres: Database) -> None:
    async with worker(postgres.dsn) as one:
        for number, key in enumerate(one.all_keys()):
            one.local.put(key, number)
        before = one.all_keys()

        await one.epochs.flush("penguins", "2")

        assert [new == old for new, old in zip(one.all_keys(), before, strict=True)] == [True, False, True]
        assert [one.local.get(key) for key in before] == [0, None, 2]
        assert len(one.local) == 2


async def test_no_key_comes_back_however_often_and_whatever_is_flushed(postgres: Database) -> None:
    async with worker(postgres.dsn) as one:
        seen = [one.key("penguins", "2")]
        for version in (None, "2", None, None, "2", "1", None):
            await one.epochs.flush("penguins", version)
            seen.append(one.key("penguins", "2"))
        assert len(set(seen)) == 7  # the flush of version 1 was none of its business


async def test_flushes_at_once_reach_everybody(postgres: Database) -> None:
    async with worker(postgres.dsn) as one, worker(postgres.dsn) as two:
        before = one.key("penguins", "1")
        flushes = [
            each.epochs.flush("penguins", version)
            for each in (one, two)
            for version in (None, "1", "2", None)
        ]  # fmt: skip
        flushed = await asyncio.gather(*flushes)

        assert len({each.epoch for each in flushed}) == len(flushed)
        assert {(each.workers, each.pending) for each in flushed} == {(2, 0)}
        assert one.all_keys() == two.all_keys()
        assert one.key("penguins", "1") != before


async def test_epochs_become_visible_in_their_order(postgres: Database) -> None:
    """Else a worker would take a late, lower one for old, and keep the answers from before it."""
    async with worker(postgres.dsn) as one:
        with psycopg.connect(postgres.dsn) as connection, psycopg.connect(postgres.dsn, autocommit=True) as looker:
            connection.execute("SELECT flush_cache('penguins')")  # not committed yet
            later = asyncio.create_task(one.epochs.flush("penguins", None))
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'cache_epochs'::regclass"
            await eventually(lambda: later.done() or looker.execute(waits.encode()).fetchone() == (1,))
            assert not later.done()
            connection.commit()
        assert (await later).pending == 0


async def test_a_flush_in_psql_counts_too(postgres: Database) -> None:
    async with worker(postgres.dsn) as one:
        before = one.all_keys()
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            connection.execute("SELECT flush_cache('penguins')")
        await eventually(lambda: one.all_keys()[:2] != before[:2])
        assert one.all_keys()[2] == before[2]


async def test_a_worker_whose_connection_breaks_catches_up(postgres: Database) -> None:
    async with worker(postgres.dsn) as one, worker(postgres.dsn) as two:
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            for _ in range(3):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'shoal epoch %' AND datname = current_database()"
                )
                epoch = connection.execute("SELECT flush_cache('penguins')").fetchone()
                assert epoch is not None
                now = (epoch[0], epoch[0])

                def taken(now: tuple[int, int] = now) -> bool:
                    return tuple(each.keys["penguins", "1"].epoch for each in (one, two)) == now

                await eventually(taken)


@pytest.fixture
async def away(postgres_server: Callable[[], Postgres]) -> Postgres:
    """A Postgres of the test's own, with the schema, to be stopped."""
    server = postgres_server()
    async with await psycopg.AsyncConnection.connect(server.dsn, autocommit=True) as connection:
        await migrations.migrate(connection)
    return server


async def test_a_worker_that_loses_postgres_keeps_its_keys_and_one_that_starts_without_it_finds_no_old_answer(
    away: Postgres,
) -> None:
    async with worker(away.dsn) as old:
        known = old.all_keys()
        await asyncio.to_thread(away.stop)
        async with worker(away.dsn) as new, worker(away.dsn) as newer:
            with pytest.raises(FlushUnavailable):
                await old.epochs.flush("penguins", None)
            assert old.all_keys() == known
            # What was flushed before they came is unknown to them: they share with nobody.
            assert len({*known, *new.all_keys(), *newer.all_keys()}) == 3 * len(VERSIONS)
            new.local.put(new.key("digits", "1"), 1)

            await asyncio.to_thread(away.start)

            await eventually(lambda: new.all_keys() == newer.all_keys() == known)
            assert len(new.local) == 0
            assert (await new.epochs.flush("digits", None)).workers >= 1
            await eventually(lambda: old.all_keys() == new.all_keys())


async def test_a_postgres_that_hangs_holds_up_neither_the_start_nor_the_end(away: Postgres) -> None:
    async with worker(away.dsn) as old:
        away.pause()
        try:
            async with asyncio.timeout(20):
                async with worker(away.dsn):
                    pass
                with pytest.raises(FlushUnavailable):
                    await old.epochs.flush("penguins", None)
        finally:
            away.resume()
        flushed = await eventually(lambda: old.epochs.flush("penguins", None))
        assert flushed.pending == 0


async def test_a_worker_that_hangs_is_not_waited_for_for_ever(postgres: Database) -> None:
    async with worker(postgres.dsn) as one:
        with psycopg.connect(postgres.dsn, application_name="shoal epoch 0"):  # follows, and takes nothing
            async with asyncio.timeout(20):
                flushed = await one.epochs.flush("penguins", None)
        assert (flushed.workers, flushed.pending) == (1, 1)


# --- the route --------------------------------------------------------------------------------------------------------
async def cache_of(client: httpx.AsyncClient, path: str = "/predict") -> str:
    reply = await client.post(path, json={"features": [1.0, 2.0, 3.0]})
    assert reply.status_code == 200
    return str(reply.headers["x-cache"])


async def test_a_flushed_answer_is_computed_anew(client: httpx.AsyncClient) -> None:
    first = "/models/penguins/versions/1/predict"
    assert [await cache_of(client), await cache_of(client), await cache_of(client, first)] == ["miss", "local", "miss"]

    reply = await client.post("/admin/cache/flush", json={"model": "penguins", "version": "2"}, headers=ADMIN)

    assert reply.status_code == 200
    flushed = reply.json()
    assert flushed.pop("epoch") > 1.7e15
    assert flushed == {"model": "penguins", "version": "2", "workers": 1, "pending": 0}
    assert [await cache_of(client), await cache_of(client), await cache_of(client, first)] == ["miss", "local", "local"]


async def local_misses(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    [line] = re.findall(r'^shoal_cache_lookups_total\{result="miss",tier="local"\} (.*)$', text, re.MULTILINE)
    return float(line)


async def more_local_misses(client: httpx.AsyncClient, before: float) -> bool:
    return await local_misses(client) > before


async def test_what_was_in_flight_is_answered_and_not_found_later(
    settings: Settings, shipped_models: tuple[Repository, Programs], redis_server: Callable[[], Redis]
) -> None:
    redis = redis_server()
    settings = settings.model_copy(update={"redis_url": redis.url, "redis_budget_seconds": 5})
    async with served(settings, *shipped_models) as client:
        before = await local_misses(client)
        redis.pause()
        in_flight = asyncio.create_task(cache_of(client))
        await eventually(lambda: more_local_misses(client, before), because="it has its key")
        flushed = await client.post("/admin/cache/flush", json={"model": "penguins"}, headers=ADMIN)
        redis.resume()

        assert (flushed.status_code, await in_flight) == (200, "miss")
        assert [await cache_of(client), await cache_of(client)] == ["miss", "local"]


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"model": "walrus"}, 404, "unknown-model"),
        ({"model": "penguins", "version": "9"}, 404, "unknown-version"),
        ({"model": "penguins", "version": ""}, 404, "unknown-version"),
        ({"model": "peng\0uins"}, 404, "unknown-model"),
        ({}, 422, "invalid-parameters"),
        ([], 422, "invalid-parameters"),
        ({"model": 1}, 422, "invalid-parameters"),
        ({"model": "penguins", "versoin": "2"}, 422, "invalid-parameters"),
    ],
)
async def test_what_cannot_be_flushed_is_a_problem(
    client: httpx.AsyncClient, body: object, status: int, problem: str
) -> None:
    reply = await client.post("/admin/cache/flush", json=body, headers=ADMIN)

    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")
    assert reply.json()["type"] == f"urn:shoal:problem:{problem}"


async def test_without_postgres_nothing_can_be_flushed(
    settings: Settings, shipped_models: tuple[Repository, Programs], tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"postgres_dsn": f"host={tmp_path} user=postgres dbname=none"})
    async with served(settings, *shipped_models) as client:
        assert await cache_of(client) == "miss"
        reply = await client.post("/admin/cache/flush", json={"model": "penguins"}, headers=ADMIN)

        assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
        assert reply.json()["type"] == "urn:shoal:problem:flush-unavailable"
