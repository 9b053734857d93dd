"""What is owed by each broker, by itself: hints go to whoever is there, and to another one when that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import pytest

from api.jobs.brokers import Broker, BrokerAway, Delivery, Session, open_broker
from api.jobs.job import PRIORITIES, Hint
from api.prediction_log.link import end
from tests.certificate import certify_localhost
from tests.integration.jobs.conftest import remove_queues
from tests.servers import BrokerServer, Nats, eventually_async

IDLE_SECONDS = 2
WORD = "p:ss@w/rd %41"
NORMAL, HIGH = PRIORITIES.index("normal"), PRIORITIES.index("high")


def opened(url: str, *, password: str | None = None, prefetch: int = 10) -> Broker:
    return open_broker(url, password=password, prefetch=prefetch, max_deliveries=2, idle_seconds=IDLE_SECONDS)


def hints(*numbers: int, priority: int = NORMAL) -> list[Hint]:
    return [Hint(UUID(int=number), number, priority) for number in numbers]


@asynccontextmanager
async def receiving(broker: Broker) -> AsyncIterator[tuple[Session, asyncio.Queue[Delivery]]]:
    """A session, and what is delivered there."""
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()

    async def receive(session: Session) -> None:
        async for delivery in session.deliveries():
            arrived.put_nowait(delivery)

    async with broker.session() as session:
        receiver = asyncio.create_task(receive(session))
        try:
            yield session, arrived
        finally:
            await end(receiver)


async def first(arrived: asyncio.Queue[Delivery], count: int) -> list[Delivery]:
    async with asyncio.timeout(20):
        return [await arrived.get() for _ in range(count)]


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [delivery.hint.chunk for delivery in deliveries]


async def test_no_more_is_held_of_a_priority_than_may_be(broker: BrokerServer) -> None:
    async with receiving(opened(broker.url, prefetch=2)) as (session, arrived):
        await session.publish(hints(1, 2, 3, 4))
        held = await first(arrived, 2)
        assert numbers(held) == [1, 2]
        for number in range(10, 20):  # while others come and go
            await session.publish(hints(number, priority=HIGH))
            [urgent] = await first(arrived, 1)
            assert urgent.hint.chunk == number
            await session.acknowledge(urgent)
        await session.acknowledge(held[0])
        assert numbers(await first(arrived, 1)) == [3]
        assert arrived.empty()


async def test_what_is_settled_is_gone_and_what_is_not_goes_to_another_session(broker: BrokerServer) -> None:
    async with receiving(opened(broker.url)) as (session, arrived):
        await session.publish(hints(1, 2, 3))
        begun = await first(arrived, 3)
        assert [delivery.is_redelivered for delivery in begun] == [False, False, False]
        await session.acknowledge(begun[0])
        await session.reject(begun[1])
    async with receiving(opened(broker.url)) as (session, arrived):
        [again] = await first(arrived, 1)
        assert (again.hint, again.is_redelivered) == (begun[2].hint, True)
        await session.publish(hints(4))
        assert numbers(await first(arrived, 1)) == [4]


async def test_what_is_held_for_long_goes_to_nobody_else_while_its_session_lives(broker: BrokerServer) -> None:
    async with receiving(opened(broker.url)) as (holding, held):
        await holding.publish(hints(1, 2, 3))
        await first(held, 3)
        async with receiving(opened(broker.url)) as (_, others):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2 * IDLE_SECONDS):
                    await others.get()
        assert held.empty()


async def test_what_takes_whoever_takes_it_down_ends_among_the_dead_letters(broker: BrokerServer) -> None:
    async with opened(broker.url).session() as session:
        await session.publish(hints(1))
    deliveries = 0
    for _ in range(4):
        async with receiving(opened(broker.url)) as (session, arrived):

            async def is_somewhere() -> bool:
                return not arrived.empty() or await session.dead_letters() > 0

            await eventually_async(is_somewhere, within_seconds=20)
            if arrived.empty():
                break
            deliveries += 1
    assert deliveries in (2, 3)  # RabbitMQ counts how often it came back
    async with opened(broker.url).session() as session:
        assert numbers(await session.take_dead_letters()) == [1]


async def test_a_dead_letter_is_kept_until_it_is_acknowledged(broker: BrokerServer) -> None:
    async with receiving(opened(broker.url)) as (session, arrived):
        await session.publish(hints(1, 2, 3))
        for delivery in await first(arrived, 3):
            await (session.acknowledge(delivery) if delivery.hint.chunk == 2 else session.reject(delivery))

        async def letters() -> bool:
            return await session.dead_letters() == 2

        await eventually_async(letters)
        assert numbers(await session.take_dead_letters()) == [1, 3]
    async with receiving(opened(broker.url)) as (session, arrived):
        await eventually_async(letters)
        for letter in await session.take_dead_letters():
            if letter.hint.chunk == 1:
                await session.acknowledge(letter)
    async with opened(broker.url).session() as session:
        assert await session.dead_letters() == 1
        assert numbers(await session.take_dead_letters()) == [3]
        assert arrived.empty()  # nobody is asked to answer them


# --- NATS by itself ---------------------------------------------------------------------------------------------------
@pytest.fixture
def start_nats(folders: Callable[[], Path]) -> Iterator[Callable[..., Nats]]:
    """Starts a NATS of the test's own, with options."""
    with ExitStack() as leave:

        def start(*options: str) -> Nats:
            server = Nats(folders(), *options)
            server.start()
            leave.callback(server.close)
            return server

        yield start


@pytest.mark.parametrize(
    ("options", "user", "url"),
    [
        (("--user", "shoal", "--pass", WORD), "shoal@", f"shoal:{quote(WORD, '')}@"),
        (("--auth", WORD), "", f"{quote(WORD, '')}@"),
    ],
    ids=["password", "token"],
)
async def test_nats_is_told_who_comes(
    start_nats: Callable[..., Nats], options: tuple[str, ...], user: str, url: str
) -> None:
    address = start_nats(*options).url.removeprefix("nats://")
    for broker in (opened(f"nats://{user}{address}", password=WORD), opened(f"nats://{url}{address}")):
        async with broker.session() as session:
            await session.publish(hints(1))
    with pytest.raises(BrokerAway, match="Authorization Violation"):
        async with opened(f"nats://{user}{address}", password="another").session():
            pass


async def test_nats_over_tls_is_never_in_the_clear(
    start_nats: Callable[..., Nats], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = certify_localhost(tmp_path)
    server = start_nats("--tls", "--tlscert", str(certificate), "--tlskey", str(key))
    broker = opened(f"tls://localhost:{server.port}")
    with pytest.raises(BrokerAway, match="CERTIFICATE_VERIFY_FAILED"):
        async with broker.session():
            pass
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with broker.session() as session:
        await session.publish(hints(1))
    with pytest.raises(BrokerAway, match="SecureConnWanted"):
        async with opened(start_nats().url.replace("nats:", "tls:")).session():
            pass


async def test_nats_that_is_frozen_or_killed_or_not_there_is_away(start_nats: Callable[..., Nats]) -> None:
    server = start_nats()
    broker = opened(server.url)

    async def open_another() -> None:
        async with broker.session():
            pass

    async with asyncio.timeout(30), broker.session() as session:
        server.pause()
        asked = (session.publish(hints(1)), session.dead_letters(), anext(session.deliveries()), open_another())
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BrokerAway] * 4
        server.resume()
    async with broker.session() as session:
        next_one = asyncio.ensure_future(anext(session.deliveries()))
        server.kill()
        with pytest.raises(BrokerAway, match="hung up"):
            await asyncio.wait_for(next_one, 10)
        with pytest.raises(BrokerAway, match="ConnectionClosed"):
            await session.publish(hints(1))
    with pytest.raises(BrokerAway, match="ConnectionRefused"):
        await open_another()


async def test_nats_whose_stream_is_deleted_ends_the_session_and_the_next_one_makes_it_anew(nats_server: Nats) -> None:
    broker = opened(nats_server.url)
    async with broker.session() as session:
        next_one = asyncio.ensure_future(anext(session.deliveries()))
        await remove_queues(nats_server)
        with pytest.raises(BrokerAway, match="NotFound"):
            await asyncio.wait_for(next_one, 20)
        with pytest.raises(BrokerAway):
            await session.publish(hints(2))
    async with receiving(broker) as (session, arrived):
        await session.publish(hints(3))
        assert numbers(await first(arrived, 1)) == [3]


async def test_what_nats_has_confirmed_is_there_after_a_restart(start_nats: Callable[..., Nats]) -> None:
    server = start_nats()
    async with receiving(opened(server.url)) as (session, arrived):
        await session.publish(hints(*range(12)))
        await first(arrived, 10)
    server.stop()
    server.start()
    async with receiving(opened(server.url, prefetch=20)) as (_, arrived):
        assert sorted(numbers(await first(arrived, 12))) == list(range(12))
