"""The story of a prediction with a real Redis and a real Postgres; only the model is one that a test can hold."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from api import metrics, tallies
from api.answers import Regression
from api.batching import Batcher
from api.cache.address import Address
from api.cache.breaker import Breaker
from api.cache.keys import KeySpace
from api.cache.local import LocalCache
from api.cache.shared import SharedCache
from api.circuits import Circuits
from api.errors import ModelFailed, Overloaded
from api.flights import Served
from api.prediction_log import PredictionLog, pack_model
from api.predictor import Caller, Predictor
from api.rows import Row, RowDecoder
from api.tallies import CounterTally, HistogramTally
from tests.conftest import Database
from tests.servers import Redis
from tests.servers import eventually_async as eventually

Array = npt.NDArray[np.float32]


class Model:
    """Adds up its rows. Keeps what it was run on; holds its breath while `gate` is closed; raises at `dislikes`."""

    dislikes: float | None = 13

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.rows_run: list[list[float]] = []

    def stage(self, rows: Sequence[bytes]) -> Array:
        return np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), -1)

    def run_staged(self, rows: Array) -> Array:
        self.started.set()
        assert self.gate.wait(10)
        self.rows_run += rows.tolist()
        if (rows == self.dislikes).any():
            raise ValueError("13")
        sums: Array = rows.sum(axis=1, keepdims=True)
        return sums


class Worker:
    """What a worker process has: its own memory, and the stores that it shares with the others."""

    def __init__(self, predictor: Predictor, served: Served, model: Model, log: PredictionLog) -> None:
        self.predictor = predictor
        self.served = served
        self.model = model
        self.log = log

    async def ask(self, *rows: list[float]) -> list[tuple[float, str]]:
        """The answers, each with what became of the cache."""
        caller = Caller("test", time.time_ns() // 1_000_000, np.random.default_rng().bytes(16))
        answers, tiers = (await self.predictor.predict(self.served, [row_of(each) for each in rows], caller))[1:]
        return [
            (float(json.loads(b"{" + answer.members + b"}")["prediction"]), tier)
            for answer, tier in zip(answers, tiers, strict=True)
        ]


def row_of(numbers: list[float]) -> Row:
    return Row(np.array(numbers, np.float32).tobytes(), str(numbers).encode())


@asynccontextmanager
async def worker(
    postgres: Database, redis: Redis, spool: Path, *, lease_seconds: float | None = None
) -> AsyncIterator[Worker]:
    model = Model()
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(
            PredictionLog(
                dsn=postgres.dsn,
                password=None,
                pool_size=2,
                spool_dir=spool,
                gather_seconds=0.001,
                max_group_rows=1000,
                commit_timeout_seconds=3,
            )
        )
        shared = SharedCache(
            Address.parse(redis.url),
            ttl_seconds=60,
            budget_seconds=1,
            breaker=Breaker(max_failures=3, open_seconds=1),
        )
        stack.push_async_callback(shared.close)
        executor = stack.enter_context(ThreadPoolExecutor(1))
        predictor = Predictor(local=LocalCache(1000), shared=shared, log=log)
        stack.callback(model.gate.set)
        yield Worker(predictor, serve(model, predictor, executor, lease_seconds=lease_seconds), model, log)


def serve(
    model: Model, predictor: Predictor, executor: ThreadPoolExecutor, *, lease_seconds: float | None = None
) -> Served:
    return Served(
        model="sum",
        version="1",
        members=b'"model":"sum","version":"1"',
        packed=pack_model("sum", "1"),
        keys=KeySpace("sum", "1", "00" * 32),
        decoder=RowDecoder([2], max_rows=100),
        reader=Regression(),
        output_width=1,
        lease_seconds=lease_seconds,
        batcher=Batcher(
            model,
            on_run=predictor.computed,
            model="sum",
            version="1",
            max_batch_rows=8,
            max_queued_rows=100,
            max_wait_seconds=10,
            executor=executor,
        ),
        counts={
            tier: CounterTally(metrics.PREDICTIONS.labels("sum", "1", tier))
            for tier in ("local", "redis", "coalesced", "miss")
        },
        seconds=HistogramTally(metrics.PREDICTION_SECONDS.labels("sum", "1")),
        queued_rows=metrics.QUEUED_ROWS.labels("sum", "1"),
        circuit=Circuits([("sum", "1")]).of(("sum", "1"), 0),
        quarantined=metrics.MODEL_QUARANTINED.labels("sum", "1"),
    )


@pytest.fixture
def open_worker(postgres: Database, redis: Redis, tmp_path: Path) -> Callable[[], Any]:
    return lambda: worker(postgres, redis, tmp_path)


async def started(model: Model) -> None:
    assert await asyncio.to_thread(model.started.wait, 5)


async def waiting(worker: Worker, callers: int) -> None:
    await eventually(lambda: sum(len(flight.waiting) for flight in worker.predictor._flights.values()) == callers)


async def test_the_second_time_it_comes_from_memory_and_elsewhere_from_redis(
    open_worker: Callable[[], Any], redis: Redis
) -> None:
    async with open_worker() as one, open_worker() as other:
        assert await one.ask([1, 2]) == [(3, "miss")]
        assert await one.ask([1, 2]) == [(3, "local")]

        key = other.served.keys.key(row_of([1, 2]).canonical)
        with redis.client() as client:
            await eventually(lambda: client.get(key))
        assert await other.ask([1, 2]) == [(3, "redis")]
        assert await other.ask([1, 2]) == [(3, "local")]
        assert other.model.rows_run == []


async def test_equal_rows_in_flight_run_once(open_worker: Callable[[], Any]) -> None:
    async with open_worker() as one:
        one.model.gate.clear()
        leader = asyncio.create_task(one.ask([1, 2]))
        await started(one.model)
        followers = [asyncio.create_task(one.ask([1, 2])) for _ in range(5)]
        await waiting(one, 6)
        one.model.gate.set()

        assert await leader == [(3, "miss")]
        assert [await follower for follower in followers] == [[(3, "coalesced")]] * 5
        assert one.model.rows_run == [[1, 2]]


async def test_a_leader_that_leaves_does_not_cost_those_who_joined_it(open_worker: Callable[[], Any]) -> None:
    async with open_worker() as one:
        one.model.gate.clear()
        leader = asyncio.create_task(one.ask([1, 2]))
        await started(one.model)
        follower = asyncio.create_task(one.ask([1, 2]))
        await waiting(one, 2)

        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        one.model.gate.set()

        assert await follower == [(3, "coalesced")]


async def test_a_row_that_everybody_left_is_computed_anew_for_who_comes_later(open_worker: Callable[[], Any]) -> None:
    async with open_worker() as one:
        one.model.gate.clear()
        blocker = asyncio.create_task(one.ask([9, 9]))
        await started(one.model)

        left = asyncio.create_task(one.ask([1, 2]))
        await waiting(one, 2)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        later = asyncio.create_task(one.ask([1, 2]))
        await waiting(one, 2)
        one.model.gate.set()

        assert await blocker == [(18, "miss")]
        assert await later == [(3, "miss")]
        assert one.predictor._flights == {}


@pytest.fixture
def open_claiming_worker(postgres: Database, redis: Redis, tmp_path: Path) -> Callable[[], Any]:
    """Of a model so dear that its rows are claimed."""
    return lambda: worker(postgres, redis, tmp_path, lease_seconds=30)


async def test_of_two_workers_that_miss_a_row_one_computes_it(open_claiming_worker: Callable[[], Any]) -> None:
    async with open_claiming_worker() as one, open_claiming_worker() as other:
        one.model.gate.clear()
        first = asyncio.create_task(one.ask([1, 2], [3, 4]))
        await started(one.model)
        second = asyncio.create_task(other.ask([3, 4], [5, 6]))
        await started(other.model)
        assert not second.done()
        one.model.gate.set()

        assert await first == [(3, "miss"), (7, "miss")]
        assert await second == [(7, "coalesced"), (11, "miss")]
        assert one.model.rows_run == [[1, 2], [3, 4]]
        assert other.model.rows_run == [[5, 6]]


async def test_another_worker_takes_over_what_the_first_failed_at(open_claiming_worker: Callable[[], Any]) -> None:
    async with open_claiming_worker() as one, open_claiming_worker() as other:
        one.model.gate.clear()
        first = asyncio.create_task(one.ask([13, 1]))
        await started(one.model)
        other.model.dislikes = None
        second = asyncio.create_task(other.ask([13, 1]))
        await waiting(other, 1)
        one.model.gate.set()

        with pytest.raises(ModelFailed):
            await first
        assert await second == [(14, "miss")]


async def test_another_worker_takes_over_what_nobody_waits_for_in_the_first(
    open_claiming_worker: Callable[[], Any], redis: Redis
) -> None:
    async with open_claiming_worker() as one, open_claiming_worker() as other:
        one.model.gate.clear()
        blocker = asyncio.create_task(one.ask([9, 9]))
        await started(one.model)
        first = asyncio.create_task(one.ask([1, 2]))
        with redis.client() as client:
            await eventually(lambda: len(client.keys("*:claim")) == 2)
        second = asyncio.create_task(other.ask([1, 2]))
        await waiting(other, 1)

        first.cancel()

        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == [(3, "miss")]
        one.model.gate.set()
        await blocker
        assert one.model.rows_run == [[9, 9]]


async def test_a_claim_that_comes_when_everybody_has_left_is_given_back(
    open_claiming_worker: Callable[[], Any], redis: Redis
) -> None:
    async with open_claiming_worker() as one:
        with redis.client() as client:
            client.config_resetstat()
            left = asyncio.create_task(one.ask([1, 2]))
            await asyncio.sleep(0)  # it asks Redis now
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left

            await eventually(lambda: client.info("commandstats").get("cmdstat_del"), because="the claim came and went")
            assert client.keys() == []
        assert one.model.rows_run == []


async def test_a_batch_shares_hits_and_a_row_that_stands_twice_runs_once(open_worker: Callable[[], Any]) -> None:
    async with open_worker() as one:
        await one.ask([1, 2])

        answers = await one.ask([1, 2], [3, 4], [5, 6], [3, 4])

        assert answers == [(3, "local"), (7, "miss"), (11, "miss"), (7, "coalesced")]
        assert one.model.rows_run == [[1, 2], [3, 4], [5, 6]]


async def test_a_poisonous_row_fails_its_own_request_only_and_is_not_cached(open_worker: Callable[[], Any]) -> None:
    async with open_worker() as one:
        one.model.gate.clear()
        blocker = asyncio.create_task(one.ask([9, 9]))
        await started(one.model)
        poisonous = asyncio.create_task(one.ask([13, 0]))
        neighbour = asyncio.create_task(one.ask([1, 2]))
        await waiting(one, 3)
        one.model.gate.set()

        with pytest.raises(ModelFailed):
            await poisonous
        assert await blocker == [(18, "miss")]
        assert await neighbour == [(3, "miss")]
        with pytest.raises(ModelFailed):
            await one.ask([13, 0])


async def test_a_batch_that_the_queue_cannot_take_is_refused_before_anything_is_computed(
    open_worker: Callable[[], Any],
) -> None:
    async with open_worker() as one:
        with pytest.raises(Overloaded):
            await one.ask(*([n, n] for n in range(101)))
        assert one.predictor._flights == {}
        assert one.model.rows_run == []

        await one.ask([1, 2])
        full = [[100 + n, 1.0] for n in range(100)]
        assert len(await one.ask(*full)) == 100
        # What is in the cache needs no room in the queue.
        assert {cache for _, cache in await one.ask(*full, [1, 2])} == {"local"}


async def test_a_lookup_is_counted_once_whatever_became_of_it(
    open_worker: Callable[[], Any], redis_server: Callable[[], Redis], postgres: Database, tmp_path: Path
) -> None:
    def counts() -> list[float]:
        tallies.flush()
        results = [metrics.CACHE_LOOKUPS.labels("redis", result) for result in ("hit", "miss", "error", "skipped")]
        return [float(result._value.get()) for result in results]

    def since(before: list[float]) -> list[float]:
        return [now - then for now, then in zip(counts(), before, strict=True)]

    server = redis_server()
    async with worker(postgres, server, tmp_path / "own") as one:
        before = counts()
        await one.ask([1, 2])
        assert since(before) == [0, 1, 0, 0]
        server.stop()
        for n in range(5):
            await one.ask([n, 9])
        # Each is an error until the breaker opens, and skipped from then on.
        hits, misses, errors, skipped = since(before)
        assert (hits, misses, errors + skipped) == (0, 1, 5)
        assert errors
        assert skipped


async def test_an_answer_is_in_postgres_when_it_is_given_and_a_retry_adds_no_row(
    open_worker: Callable[[], Any],
) -> None:
    async with open_worker() as one:
        await one.ask([1, 2], [3, 4])
        rows, _ = await one.log.queries.page()
        assert {(str(row["input_data"]), row["prediction"], row["cache"]) for row in rows} == {
            ("[1, 2]", 3, "miss"),
            ("[3, 4]", 7, "miss"),
        }

        # nginx sends a request again, with the same time and seed, when a replica died before its reply.
        caller = Caller("again", time.time_ns() // 1_000_000, b"s" * 16)
        first = await one.predictor.predict(one.served, [row_of([5, 6])], caller)
        second = await one.predictor.predict(one.served, [row_of([5, 6])], caller)

        assert first.first_id == second.first_id
        rows, _ = await one.log.queries.page()
        assert [row["input_data"] for row in rows].count([5, 6]) == 1


async def test_a_damaged_value_in_redis_is_computed_anew(open_worker: Callable[[], Any], redis: Redis) -> None:
    async with open_worker() as one:
        key = one.served.keys.key(row_of([1, 2]).canonical)
        with redis.client() as client:
            client.set(key, b"\x01garbage!")

        assert await one.ask([1, 2]) == [(3, "miss")]
