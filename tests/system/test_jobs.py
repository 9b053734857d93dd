"""Jobs on real processes, over each broker, while one after the other of them is killed: every row is answered once."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aio_pika
import nats
import psycopg
import pytest

from tests.servers import (
    BROKERS,
    BrokerServer,
    JobWorker,
    Nats,
    Nginx,
    Postgres,
    RabbitMq,
    Redis,
    Replica,
    Server,
    eventually,
)
from tests.stack import Together

ROWS = 40_000
CHUNK_ROWS = 2000


class JobStack(Together):
    """nginx, a replica, two workers and what they need; each can be broken by itself."""

    def __init__(self, folder: Path, broker: str) -> None:
        env: dict[str, Any] = {
            "SHOAL_JOB_CHUNK_ROWS": str(CHUNK_ROWS),
            "SHOAL_JOB_LEASE_SECONDS": "5",
            "SHOAL_JOB_REDELIVER_SECONDS": "2",
            "SHOAL_LOG_LEVEL": "WARNING",
        }
        self.postgres = Postgres(folder / "postgres")
        self.redis = Redis(folder / "redis")
        self.broker: BrokerServer = BROKERS[broker](folder / broker) if broker in BROKERS else self.redis
        where: dict[str, Any] = {
            "postgres_dsn": self.postgres.dsn,
            "redis_url": self.redis.url,
            "spool": folder / "spool",
        }
        self.replica = Replica(folder / "replica", **where, **env)
        self.workers = [
            JobWorker(folder / f"worker-{number}", **where, broker_url=self.broker.url, **env) for number in (1, 2)
        ]
        self.nginx = Nginx(folder / "nginx", [self.replica.address])

    @property
    def servers(self) -> list[Server]:
        stores = dict.fromkeys([self.postgres, self.redis, self.broker])
        return [*stores, self.replica, self.nginx, *self.workers]

    def submit(self, rows: list[list[float]], parameters: str = "") -> str:
        body = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        status, answer = self.ask("POST", f"/jobs{parameters}", body)
        assert status == 202, answer
        return str(json.loads(answer)["id"])

    def job(self, id: str) -> dict[str, Any]:
        status, answer = self.ask("GET", f"/jobs/{id}")
        assert status == 200, answer
        job: dict[str, Any] = json.loads(answer)
        return job

    def under_way(self, id: str, rows_done: int = 1) -> dict[str, Any]:
        """The job, once that many rows are done and some are not."""
        return eventually(lambda: (job := self.job(id))["rows_done"] >= rows_done and job, within_seconds=60)

    def done(self, id: str) -> dict[str, Any]:
        return eventually(lambda: (job := self.job(id))["state"] == "done" and job, within_seconds=90)

    def lose_messages(self) -> None:
        """All that wait: Redis evicts them, with their streams and groups; from the others somebody removes them."""
        if isinstance(self.broker, Redis):
            with self.redis.client() as client:
                client.config_set("maxmemory", "1mb")  # less than it needs by itself: every key goes
                eventually(lambda: client.dbsize() == 0)
                client.config_set("maxmemory", "256mb")
        else:
            asyncio.run(_purge(self.broker))

    def assert_answered_once(self, id: str, rows: list[list[float]]) -> None:
        answers = [json.loads(line) for line in self.ask("GET", f"/jobs/{id}/results")[1].splitlines()]
        assert [answer["row"] for answer in answers] == list(range(len(rows)))
        with psycopg.connect(self.postgres.dsn) as connection:
            logged = {
                str(logged): row
                for logged, row in connection.execute(
                    "SELECT p.id, input_data FROM predictions AS p JOIN jobs ON created_at = timestamp"
                    " WHERE jobs.id = %s",
                    (id,),
                )
            }
        assert logged == {answer["id"]: row for answer, row in zip(answers, rows, strict=True)}


async def _purge(broker: RabbitMq | Nats) -> None:
    if isinstance(broker, Nats):
        async with await nats.connect(broker.url) as client:
            await client.jetstream().purge_stream("shoal-jobs")
        return
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        for name in ("low", "normal", "high"):
            await (await channel.get_queue(f"shoal.jobs.{name}")).purge()


@pytest.fixture(scope="module", params=["redis", *BROKERS])
def stack(request: pytest.FixtureRequest, folders: Callable[[], Path]) -> Iterator[JobStack]:
    stack = JobStack(folders(), request.param)
    try:
        stack.start()
        yield stack
    finally:
        stack.close()


_numbers = random.Random(7)


def some_rows(count: int = ROWS) -> list[list[float]]:
    """Hardly any of them twice."""
    return [
        [round(_numbers.uniform(32, 60), 6), round(_numbers.uniform(13, 22), 4), round(_numbers.uniform(170, 232), 4)]
        for _ in range(count)
    ]


def test_a_worker_that_is_killed_half_way_through_a_chunk_leaves_it_to_the_other(stack: JobStack) -> None:
    for worker in stack.workers:
        rows = some_rows()
        id = stack.submit(rows)
        eventually(lambda worker=worker: _holds_a_chunk(worker), within_seconds=30)  # type: ignore[misc]
        worker.kill()
        worker.launch()
        assert stack.done(id)["rows_done"] == ROWS
        stack.assert_answered_once(id, rows)
        worker.wait_until_ready()


def _holds_a_chunk(worker: JobWorker) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=5)
    try:
        connection.request("GET", "/health")
        return bool(json.loads(connection.getresponse().read())["running_chunks"])
    finally:
        connection.close()


def test_a_worker_that_is_asked_to_stop_finishes_what_it_has(stack: JobStack) -> None:
    rows = some_rows()
    id = stack.submit(rows)
    stack.under_way(id)
    assert stack.workers[0].stop() == 0
    stack.workers[0].start()
    job = stack.done(id)
    assert job["attempts"] == ROWS / CHUNK_ROWS  # none was begun twice
    stack.assert_answered_once(id, rows)


def test_a_worker_that_freezes_finds_its_chunks_taken_when_it_goes_on(stack: JobStack) -> None:
    rows = some_rows()
    id = stack.submit(rows)
    eventually(lambda: _holds_a_chunk(stack.workers[0]), within_seconds=30)
    stack.workers[0].pause()
    stack.done(id)
    stack.workers[0].resume()
    stack.workers[0].wait_until_ready()
    stack.assert_answered_once(id, rows)


def test_jobs_that_are_taken_in_while_the_broker_is_away_run_when_it_is_back(stack: JobStack) -> None:
    stack.broker.kill()
    rows = some_rows()
    id = stack.submit(rows)
    assert stack.job(id)["state"] == "queued"
    stack.broker.start()
    stack.done(id)
    stack.assert_answered_once(id, rows)


def test_a_broker_that_is_killed_while_a_job_runs_costs_no_row(stack: JobStack) -> None:
    rows = some_rows()
    id = stack.submit(rows)
    stack.under_way(id)
    stack.broker.kill()
    stack.broker.start()
    stack.done(id)
    stack.assert_answered_once(id, rows)


def test_postgres_that_is_killed_while_a_job_runs_costs_no_row(stack: JobStack) -> None:
    rows = some_rows()
    id = stack.submit(rows)
    stack.under_way(id)
    stack.postgres.kill()
    status, answer = stack.ask("GET", f"/jobs/{id}")
    assert status == 503, answer
    stack.postgres.start()
    eventually(lambda: stack.job(id))
    stack.done(id)
    stack.assert_answered_once(id, rows)


def test_a_job_that_is_done_stays_done_though_postgres_is_killed_at_once(stack: JobStack) -> None:
    rows = some_rows()
    id = stack.submit(rows)
    stack.done(id)
    stack.postgres.kill()  # what it had committed, and not yet written, is gone
    stack.postgres.start()
    assert eventually(lambda: stack.job(id))["state"] == "done"
    stack.assert_answered_once(id, rows)


def test_messages_that_a_broker_loses_are_published_again(stack: JobStack) -> None:
    rows = some_rows()
    id = stack.submit(rows)
    stack.under_way(id)
    stack.lose_messages()
    stack.done(id)
    stack.assert_answered_once(id, rows)
