"""The broker is killed at each stage that a chunk goes through, at that very moment: every row is answered once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import psycopg
import pytest

from api.job_worker import worker
from api.job_worker.worker import make_broker
from api.jobs.brokers import Broker, BrokerAway, Delivery, Session
from api.jobs.job import Hint
from api.settings import Settings
from tests.integration.jobs.conftest import (
    Models,
    assert_answered_once,
    ended,
    is_of_a_job,
    job,
    rows,
    run_before,
    submit,
    working,
)  # fmt: skip
from tests.servers import BrokerServer, RabbitMq, eventually_async

ACCEPTED = "accepted in Postgres, not published"
PUBLISHED = "published, and the confirm is on its way"
CONFIRMED = "confirmed, and neither committed as such nor delivered"
DELIVERED = "delivered, not taken"
RUNNING = "being answered"
SETTLED = "settled, not acknowledged"
GIVEN_UP = "given up, not yet a dead letter"
REJECTED = "on its way to the dead letters"
# How far chunks may have come by then, and one of them has.
STATES = ("ready", "published", "running", "done")
FURTHEST = {
    ACCEPTED: {"ready"},
    PUBLISHED: {"ready"},
    CONFIRMED: {"ready"},
    DELIVERED: {"ready", "published"},  # who takes it may be faster than who published it
    RUNNING: {"running"},
    SETTLED: {"done"},
}


@pytest.fixture(scope="module")
def breakable(folders: Callable[[], Path]) -> Iterator[Callable[[type[BrokerServer]], BrokerServer]]:
    """A server of each kind, which has its queues and may be killed."""
    servers: dict[type[BrokerServer], BrokerServer] = {}
    with ExitStack() as leave:

        def start(kind: type[BrokerServer]) -> BrokerServer:
            if kind not in servers:
                server = servers[kind] = kind(folders())
                leave.callback(server.close)
                server.start()
                asyncio.run(_make_queues(Settings(broker_url=server.url)))
                # RabbitMQ 3.10 that is killed within seconds of making them may never have them again: see the README.
                server.stop()
                server.start()
            return servers[kind]

        yield start


async def _make_queues(settings: Settings) -> None:
    async with make_broker(settings).session():
        pass


@pytest.fixture
def victim(broker: BrokerServer, breakable: Callable[[type[BrokerServer]], BrokerServer]) -> BrokerServer:
    """Of each kind that `broker` has, one that may be killed."""
    return breakable(type(broker))


@pytest.fixture
def settings(settings: Settings, victim: BrokerServer) -> Settings:
    return settings.model_copy(update={"broker_url": victim.url})


def states(dsn: str) -> set[str]:
    """Of chunks."""
    with psycopg.connect(dsn) as connection:
        return {state for [state] in connection.execute("SELECT state FROM job_chunks")}


class Ambush:
    """A broker whose server is killed when a worker first reaches the stage. Nothing else happens in the worker before
    the server is gone, as both run here."""

    def __init__(self, broker: Broker, server: BrokerServer, dsn: str, stage: str) -> None:
        self._broker = broker
        self._server = server
        self._dsn = dsn
        self.stage = stage
        self.seen: set[str] = set()
        """States of chunks then."""
        self.has_struck = asyncio.Event()
        self.is_over = asyncio.Event()
        """The worker has noticed."""

    def reach(self, stage: str, hint: Hint | None = None) -> bool:
        """Whether that was the end of the broker. hint: the broker may still have some of an earlier test's."""
        if stage != self.stage or self.has_struck.is_set() or not (hint is None or self._is_ours(hint)):
            return False
        self._server.kill()
        self.seen = states(self._dsn)
        self.has_struck.set()
        return True

    def _is_ours(self, hint: Hint) -> bool:
        with psycopg.connect(self._dsn) as connection:
            return connection.execute("SELECT FROM jobs WHERE id = %s", (hint.job,)).fetchone() is not None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        try:
            async with self._broker.session() as session:
                yield Watched(session, self)
        finally:
            if self.has_struck.is_set():
                self.is_over.set()


class Watched:
    """A real session that says which stage is reached."""

    def __init__(self, session: Session, ambush: Ambush) -> None:
        self._session = session
        self._ambush = ambush
        self.dead_letters = session.dead_letters
        self.take_dead_letters = session.take_dead_letters

    async def publish(self, hints: Sequence[Hint]) -> None:
        self._ambush.reach(ACCEPTED)
        await self._session.publish(hints)
        if self._ambush.reach(PUBLISHED):
            raise BrokerAway("killed before its confirm was here")
        self._ambush.reach(CONFIRMED)

    async def deliveries(self) -> AsyncIterator[Delivery]:
        if self._ambush.stage in (PUBLISHED, CONFIRMED):
            await self._ambush.has_struck.wait()
        async for delivery in self._session.deliveries():
            self._ambush.reach(DELIVERED, delivery.hint)
            yield delivery

    async def acknowledge(self, delivery: Delivery) -> None:
        self._ambush.reach(SETTLED, delivery.hint)
        await self._session.acknowledge(delivery)

    async def reject(self, delivery: Delivery) -> None:
        self._ambush.reach(GIVEN_UP, delivery.hint)
        await self._session.reject(delivery)
        self._ambush.reach(REJECTED, delivery.hint)


@pytest.fixture
def ambush(settings: Settings, victim: BrokerServer, stage: str, monkeypatch: pytest.MonkeyPatch) -> Ambush:
    """The broker of workers that are opened after this."""
    its = Ambush(make_broker(settings), victim, settings.postgres_dsn, stage)
    monkeypatch.setattr(worker, "make_broker", lambda settings: its)
    return its


async def started_again(server: BrokerServer) -> None:
    server.launch()  # here: it ends with the thread that it was launched by
    await asyncio.to_thread(server.wait_until_ready)


async def until_dead_letters_are(settings: Settings, *counts: int) -> None:
    async with make_broker(settings).session() as session:

        async def are_as_many() -> bool:
            return await session.dead_letters() in counts

        await eventually_async(are_as_many, because=f"dead letters are {counts}")


@pytest.mark.parametrize("stage", FURTHEST)
async def test_a_broker_that_is_killed_while_a_job_is(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models, victim: BrokerServer, ambush: Ambush
) -> None:
    some = rows(950)

    def run(batch: npt.NDArray[np.float32]) -> None:
        if is_of_a_job(batch):
            ambush.reach(RUNNING)

    with run_before(shipped_models, run):
        async with working(settings, *shipped_models):
            id = await submit(client, some)
            await asyncio.wait_for(ambush.is_over.wait(), 30)
            if ambush.stage in (ACCEPTED, PUBLISHED):
                assert states(settings.postgres_dsn) == {"ready"}  # not taken for published
            await started_again(victim)
            assert (await ended(client, id))["state"] == "done"
            await until_dead_letters_are(settings, 0)

    assert max(ambush.seen, key=STATES.index) in FURTHEST[ambush.stage]
    assert states(settings.postgres_dsn) == {"done"}
    await assert_answered_once(client, settings.postgres_dsn, {id: some})


@pytest.mark.parametrize("stage", [GIVEN_UP, REJECTED])
async def test_a_broker_that_is_killed_while_a_chunk_is(
    client: httpx.AsyncClient, settings: Settings, shipped_models: Models, victim: BrokerServer, ambush: Ambush
) -> None:
    some = rows(250)
    id = await submit(client, some)
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
        [whole] = connection.execute("SELECT input FROM job_chunks WHERE number = 1").fetchone() or (b"",)
        connection.execute("UPDATE job_chunks SET input = 'broken', attempts_left = 1 WHERE number = 1")
    async with working(settings, *shipped_models):
        await asyncio.wait_for(ambush.has_struck.wait(), 30)
        await started_again(victim)
        assert (await ended(client, id))["state"] == "failed"
        [dead] = (await job(client, id))["dead_chunks"]
        assert (dead["first_row"], dead["attempts"]) == (100, 1)
        # Redis and NATS may forget what they did not save; that the chunk is dead is in Postgres.
        await until_dead_letters_are(settings, *((1,) if isinstance(victim, RabbitMq) else (0, 1)))

        with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
            connection.execute("UPDATE job_chunks SET input = %b WHERE number = 1", (whole,))
        assert (await client.post(f"/jobs/{id}/requeue")).status_code == 200
        assert (await ended(client, id))["state"] == "done"
        await until_dead_letters_are(settings, 0)

    assert states(settings.postgres_dsn) == {"done"}
    await assert_answered_once(client, settings.postgres_dsn, {id: some})
