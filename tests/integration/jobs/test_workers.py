"""Workers answer every row of every job once, over each broker, whatever comes in between."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable
from typing import Any
from uuid import UUID, uuid4

import httpx
import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from prometheus_client import REGISTRY

from api.job_worker.worker import make_broker
from api.jobs.brokers import Delivery, Session
from api.jobs.chunks import Chunks, Stale
from api.jobs.database import Database as JobsDatabase
from api.jobs.job import Hint
from api.jobs.pace import Pace
from api.prediction_log.link import end
from api.settings import Settings
from tests.integration.conftest import served
from tests.integration.jobs.conftest import (
    Models,
    assert_answered_once,
    ended,
    is_of_a_job,
    job,
    logged,
    remove_queues,
    results,
    rows,
    run_before,
    submit,
    working,
)  # fmt: skip
from tests.servers import BrokerServer, eventually_async


@pytest.fixture
def settings(settings: Settings, broker: BrokerServer) -> Settings:
    return settings.model_copy(update={"broker_url": broker.url})


async def test_every_row_is_answered_in_order_and_logged_once(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    some = rows(1234)
    id = await submit(client, some)
    async with working(settings, *shipped_models):
        state = await ended(client, id)

    assert (state["state"], state["rows_done"], state["rows_failed"]) == ("done", 1234, 0)
    assert state["attempts"] == 13
    await assert_answered_once(client, settings.postgres_dsn, {id: some})
    batch = (await client.post("/predict/batch", json={"instances": some[:8]})).json()["predictions"]
    for answer, single in zip(await results(client, id, limit=8), batch, strict=True):
        assert (answer["prediction"], answer["label"]) == (single["prediction"], single["label"])
        assert answer["confidence"] == pytest.approx(single["confidence"], rel=1e-5)
    one = (await client.get(f"/predictions/{(await results(client, id, offset=1233))[0]['id']}")).json()
    assert one["input_data"] == some[1233]


async def test_results_come_in_pages_and_as_csv(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    id = await submit(client, rows(250))
    async with working(settings, *shipped_models):
        await ended(client, id)
    whole = await results(client, id)
    paged: list[Any] = []
    path: str | None = f"/jobs/{id}/results?limit=90"
    while path:
        page = await client.get(path)
        paged += map(json.loads, page.text.splitlines())
        path = page.headers["Link"].partition(">")[0][1:] if "Link" in page.headers else None
    assert paged == whole
    csv = (await client.get(f"/jobs/{id}/results?format=csv&offset=248")).text.splitlines()
    assert csv[0] == "row,id,prediction,label,confidence,error,detail"
    last = whole[-1]
    assert csv[2] == f"249,{last['id']},{last['prediction']},{last['label']},{last['confidence']},,"


async def test_many_jobs_of_mixed_sizes_share_two_workers(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    sizes = [1, 2, 99, 100, 101, 350] * 8
    async with working(settings, *shipped_models), working(settings, *shipped_models):
        jobs = {}
        for number, size in enumerate(sizes):
            some = rows(size, first=number * 1000)
            jobs[await submit(client, some, priority=("low", "normal", "high")[number % 3])] = some
        for id in jobs:
            assert (await ended(client, id))["state"] == "done"
    await assert_answered_once(client, settings.postgres_dsn, jobs)


async def test_a_poisonous_row_fails_alone_and_is_reported_by_its_index(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    some = rows(250)
    poison = {17: some[17], 249: some[249]}

    def run(batch: npt.NDArray[np.float32]) -> None:
        if any(np.isclose(batch[:, 0], row[0], rtol=0, atol=2e-5).any() for row in poison.values()):
            raise RuntimeError("poisoned")

    id = await submit(client, some)
    with run_before(shipped_models, run):
        async with working(settings, *shipped_models):
            state = await ended(client, id)

    assert (state["state"], state["rows_done"], state["rows_failed"]) == ("done", 250, 2)
    assert [(error["row"], error["type"]) for error in state["errors"]] == [(17, "model-failed"), (249, "model-failed")]
    answers = await results(client, id)
    assert [answer["row"] for answer in answers] == list(range(250))
    assert [answer["row"] for answer in answers if "error" in answer] == [17, 249]
    assert len(logged(settings.postgres_dsn)) == 248


async def test_a_chunk_that_nobody_can_answer_ends_among_the_dead_letters_and_can_be_requeued(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    some = rows(250)
    id = await submit(client, some)
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
        [whole] = connection.execute("SELECT input FROM job_chunks WHERE number = 1").fetchone() or (b"",)
        connection.execute("UPDATE job_chunks SET input = 'broken' WHERE number = 1")
    broker = make_broker(settings)
    async with working(settings, *shipped_models):
        state = await ended(client, id)
        async with broker.session() as session:
            await eventually_async(session.dead_letters)

        assert (state["state"], state["rows_done"]) == ("failed", 150)
        [dead] = state["dead_chunks"]
        assert (dead["first_row"], dead["rows"], dead["attempts"]) == (100, 100, 5)
        assert "ValueError: the chunk" in dead["error"]
        answers = await results(client, id)
        assert [answer["row"] for answer in answers if answer.get("error") == "given-up"] == list(range(100, 200))

        with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
            connection.execute("UPDATE job_chunks SET input = %b WHERE number = 1", (whole,))
        assert (await client.post(f"/jobs/{id}/requeue")).json()["state"] == "running"
        assert (await ended(client, id))["state"] == "done"
        await assert_answered_once(client, settings.postgres_dsn, {id: some})

        async with broker.session() as session:  # the letter is of no chunk that is dead

            async def is_gone() -> bool:
                return not await session.dead_letters()

            await eventually_async(is_gone)
    assert (await client.post(f"/jobs/{id}/requeue")).status_code == 409


async def test_a_chunk_whose_workers_were_all_gone_is_given_up(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    id = await submit(client, rows(150))
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
        # As the last of them leaves it, which it killed as well.
        connection.execute("UPDATE job_chunks SET attempts_left = 0 WHERE number = 1")
    async with working(settings, *shipped_models):
        state = await ended(client, id)
    assert (state["state"], state["rows_done"]) == ("failed", 100)
    [dead] = state["dead_chunks"]
    assert "each worker that took it was gone" in dead["error"]


async def test_a_chunk_that_takes_longer_than_its_lease_stays_its_workers(
    settings: Settings, shipped_models: Models
) -> None:
    def run(batch: npt.NDArray[np.float32]) -> None:
        if is_of_a_job(batch):
            time.sleep(0.1)  # a dear model: 2.5 s for a chunk

    patient = settings.model_copy(update={"job_lease_seconds": 1, "job_chunk_rows": 1600})
    with run_before(shipped_models, run):
        async with served(patient, *shipped_models) as client, working(patient, *shipped_models):
            state = await ended(client, await submit(client, rows(1600)))
    assert (state["state"], state["attempts"]) == ("done", 1)


async def test_a_failed_job_that_is_cancelled_is_not_counted_any_more_and_others_are(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    cancelled, kept = [await submit(client, rows(150, first=first)) for first in (0, 1000)]
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
        connection.execute("UPDATE job_chunks SET input = 'broken', attempts_left = 1 WHERE number = 1")
    async with working(settings, *shipped_models), make_broker(settings).session() as session:

        async def are(count: int) -> bool:
            return await session.dead_letters() == count

        for id in (cancelled, kept):
            assert (await ended(client, id))["state"] == "failed"
        await eventually_async(lambda: are(2), because="there is a letter of each")
        assert (await client.delete(f"/jobs/{cancelled}")).json()["state"] == "cancelled"
        await eventually_async(lambda: are(1), because="the letter of the cancelled one is gone")
        assert [str(letter.hint.job) for letter in await session.take_dead_letters()] == [kept]
    assert (await job(client, cancelled))["dead_chunks"] == []
    assert len(await results(client, cancelled)) == 100


async def test_messages_that_come_twice_or_never_change_nothing(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    jobs = {await submit(client, some): some for some in (rows(950), rows(20, first=5000))}
    broker = make_broker(settings)
    database = JobsDatabase(dsn=settings.postgres_dsn, password=None, pool_size=1)
    await database.open()
    chunks = Chunks(database, lease_seconds=2, redeliver_seconds=1)
    async with broker.session() as session, chunks.transaction() as connection:
        hints = await chunks.ready(connection, 100)
        assert len(hints) == 11
        await session.publish(hints[:5] * 3)  # three times
        await chunks.published(connection, hints)  # and the others never
    async with working(settings, *shipped_models), working(settings, *shipped_models):
        for id in jobs:
            assert (await ended(client, id))["state"] == "done"
    await database.close()
    await assert_answered_once(client, settings.postgres_dsn, jobs)


async def test_who_was_overtaken_writes_nothing(client: httpx.AsyncClient, settings: Settings) -> None:
    id = await submit(client, rows(10))
    database = JobsDatabase(dsn=settings.postgres_dsn, password=None, pool_size=1)
    await database.open()
    chunks = Chunks(database, lease_seconds=30, redeliver_seconds=30)
    pace = Pace(share=1, predictions_come=chunks.predictions_come)
    hint = Hint(job=UUID(id), chunk=0, priority=1)
    slow = await chunks.take(hint, is_redelivered=False)
    assert slow is not None
    assert await chunks.take(hint, is_redelivered=False) is None  # a message too many
    fast = await chunks.take(hint, is_redelivered=True)  # the broker thinks that the first one is gone
    assert fast is not None

    with pytest.raises(Stale):
        await chunks.settle(slow, [], [], pace)
    await chunks.fail(slow, "too late", retry_seconds=0)
    await chunks.release(slow)
    await chunks.settle(fast, [], [], pace)
    with pytest.raises(Stale):
        await chunks.settle(fast, [], [], pace)
    assert (await job(client, id))["rows_done"] == 10
    await database.close()


async def test_a_job_is_cancelled_while_it_runs(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    some = rows(5000)
    begun = asyncio.Event()

    def run(batch: npt.NDArray[np.float32]) -> None:
        if is_of_a_job(batch):
            begun.set()

    with run_before(shipped_models, run):
        async with working(settings, *shipped_models):
            id = await submit(client, some)
            await begun.wait()
            assert (await client.delete(f"/jobs/{id}")).status_code == 200
            cancelled = await job(client, id)
            other = await submit(client, rows(10, first=9000))
            await ended(client, other)  # whatever was on its way has come to its end
    now = await job(client, id)
    assert now == cancelled
    assert now["state"] == "cancelled"
    assert 0 <= now["rows_done"] < 5000
    assert len(logged(settings.postgres_dsn)) == now["rows_done"] + 10
    assert len(await results(client, id)) == now["rows_done"]


async def test_a_job_is_watched_to_its_end(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    id = await submit(client, rows(500))
    events: list[tuple[str, dict[str, Any]]] = []
    async with client.stream("GET", f"/jobs/{id}/events") as stream, working(settings, *shipped_models):
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        name = ""
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((name, json.loads(line.removeprefix("data: "))))
    assert [name for name, _ in events] == ["progress"] * (len(events) - 1) + ["end"]
    assert events[0][1]["state"] == "queued"
    assert (events[-1][1]["state"], events[-1][1]["rows_done"]) == ("done", 500)
    done = [job["rows_done"] for _, job in events]
    assert done == sorted(done)


async def test_a_worker_that_stops_leaves_nothing_that_others_wait_for(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    some = rows(5000)
    # What is lost is not found before the test has failed.
    slow_to_notice = settings.model_copy(update={"job_lease_seconds": 600, "job_redeliver_seconds": 600})
    begun = asyncio.Event()

    def run(batch: npt.NDArray[np.float32]) -> None:
        if is_of_a_job(batch):
            begun.set()

    with run_before(shipped_models, run):
        async with working(slow_to_notice, *shipped_models):
            id = await submit(client, some)
            await begun.wait()
    assert (await job(client, id))["state"] == "running"
    async with working(slow_to_notice, *shipped_models):
        state = await ended(client, id)
    assert (state["state"], state["attempts"]) == ("done", 50)
    await assert_answered_once(client, settings.postgres_dsn, {id: some})


async def test_a_message_on_its_way_to_who_leaves_is_delivered_to_others(settings: Settings) -> None:
    broker = make_broker(settings.model_copy(update={"job_lease_seconds": 600}))
    async with broker.session() as publisher:
        for turns in range(60):  # of the loop, after some of which it is sent and has not arrived
            hint = Hint(job=uuid4(), chunk=turns, priority=1)
            await publisher.publish([hint])
            async with broker.session() as leaving:
                receiving = asyncio.create_task(_first(leaving))
                for _ in range(turns):
                    await asyncio.sleep(0)
                receiving.cancel()
                await asyncio.wait([receiving])
                if not receiving.cancelled():
                    await leaving.acknowledge(receiving.result())
                    continue
            async with asyncio.timeout(10), broker.session() as staying:
                delivery = await _first(staying)
                assert delivery.hint == hint
                await staying.acknowledge(delivery)


async def _first(session: Session) -> Delivery:
    return await anext(aiter(session.deliveries()))


async def test_what_takes_longer_than_the_drain_is_given_back(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    some = rows(150)
    hurried = settings.model_copy(
        update={"job_lease_seconds": 600, "job_redeliver_seconds": 600, "drain_seconds": 1, "job_max_attempts": 1}
    )
    with psycopg.connect(settings.postgres_dsn) as others:
        others.execute("LOCK TABLE predictions IN SHARE MODE")  # nobody writes
        async with working(hurried, *shipped_models):
            id = await submit(client, some)
            await eventually_async(lambda: _count(settings, "running") == 2)
    assert _count(settings, "ready") == 2
    async with working(hurried, *shipped_models):
        assert (await ended(client, id))["state"] == "done"
    await assert_answered_once(client, settings.postgres_dsn, {id: some})


def _count(settings: Settings, state: str) -> int:
    """Chunks in that state."""
    with psycopg.connect(settings.postgres_dsn) as connection:
        [count] = connection.execute("SELECT count(*) FROM job_chunks WHERE state = %s", (state,)).fetchone() or (0,)
        return int(count)


async def test_what_is_urgent_passes_by(client: httpx.AsyncClient, settings: Settings, shipped_models: Models) -> None:
    low = await submit(client, rows(6000), priority="low")
    async with working(settings, *shipped_models):

        async def has_begun() -> bool:
            return bool((await job(client, low))["rows_done"] > 0)

        await eventually_async(has_begun)
        high = await submit(client, rows(100, first=9000), priority="high")
        assert (await ended(client, high))["state"] == "done"
        assert (await job(client, low))["state"] == "running"
        assert (await ended(client, low))["state"] == "done"


async def test_a_small_job_need_not_wait_for_the_end_of_a_large_one(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    large = await submit(client, rows(10_000))
    small = await submit(client, rows(50, first=20_000))
    async with working(settings, *shipped_models):
        assert (await ended(client, small))["state"] == "done"
        assert (await job(client, large))["state"] == "running"


async def test_a_worker_says_how_it_is_doing(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    async with working(settings, *shipped_models) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as it:

        async def is_ready() -> bool:
            return bool((await it.get("/health/ready")).status_code == 200)

        await eventually_async(is_ready)
        await ended(client, await submit(client, rows(250)))
        assert (await it.get("/health/live")).json() == {"status": "ok"}
        state = (await it.get("/health")).json()
        assert state["status"] == "ok"
        assert state["components"]["broker"] == {"status": "up"}
        metrics = (await it.get("/metrics")).text
        assert 'shoal_job_rows_total{outcome="answered"}' in metrics
        assert "shoal_job_broker_up 1.0" in metrics
        assert (await it.get("/nothing")).status_code == 404
        assert (await it.post("/health")).status_code == 405


async def test_another_limit_of_attempts_is_no_matter_for_queues_that_are_there(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    for attempts in (5, 9):
        async with working(settings.model_copy(update={"job_max_attempts": attempts}), *shipped_models):
            assert (await ended(client, await submit(client, rows(10, first=attempts * 100))))["state"] == "done"


async def test_queues_that_somebody_removes_while_workers_run_are_made_anew(
    client: httpx.AsyncClient, settings: Settings, broker: BrokerServer, shipped_models: Models
) -> None:
    async with working(settings, *shipped_models):
        jobs = {}
        for number in range(3):
            some = rows(250, first=number * 1000)
            id = await submit(client, some)
            jobs[id] = some
            assert (await ended(client, id))["state"] == "done"
            await remove_queues(broker)
    await assert_answered_once(client, settings.postgres_dsn, jobs)


async def test_predictions_are_seen_to_come_and_rows_of_jobs_are_not_taken_for_them(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    database = JobsDatabase(dsn=settings.postgres_dsn, password=None, pool_size=1)
    await database.open()
    chunks = Chunks(database, lease_seconds=30, redeliver_seconds=30)
    async with working(settings, *shipped_models):
        await ended(client, await submit(client, rows(250)))
    assert not await chunks.predictions_come()

    assert (await client.post("/predict", json={"features": [39.1, 18.7, 181.0]})).status_code == 200

    assert await chunks.predictions_come()
    await eventually_async(lambda: _not(chunks.predictions_come()))  # a second later
    await database.close()


async def _not(answer: Awaitable[bool]) -> bool:
    return not await answer


async def test_a_job_is_answered_with_pauses_while_predictions_come(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models
) -> None:
    def pauses() -> float:
        return REGISTRY.get_sample_value("shoal_job_pause_seconds_total") or 0

    async def predict() -> None:
        for index in itertools.count():
            await client.post("/predict", json={"features": [39.1, 18.7, 181.0 + index % 50]})

    async with working(settings, *shipped_models):
        before = pauses()
        await ended(client, await submit(client, rows(1000)))
        assert pauses() == before
        predicting = asyncio.create_task(predict())
        id = await submit(client, rows(3000, first=20_000))
        assert (await ended(client, id))["state"] == "done"
        await end(predicting)
        assert pauses() > before
    assert [answer["row"] for answer in await results(client, id)] == list(range(3000))
