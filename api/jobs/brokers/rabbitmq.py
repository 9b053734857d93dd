"""RabbitMQ, 3.10 or newer: a quorum queue for each priority, publisher confirms, and a dead-letter exchange."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from yarl import URL

from api.jobs.brokers import BrokerAway, Delivery
from api.jobs.job import PRIORITIES, Hint, decode_hint, encode_hint

_QUEUES = tuple(f"shoal.jobs.{name}" for name in PRIORITIES)
_DEAD = "shoal.jobs.dead"  # exchange and queue
_TIMEOUT_SECONDS = 5
_HEARTBEAT_SECONDS = 10  # RabbitMQ's own default is 60: so long a frozen worker would keep what it holds

# It says aloud, at every attempt, what is raised anyway, and said once where that is caught.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class RabbitMq:
    def __init__(self, url: str, *, password: str | None, prefetch: int, max_deliveries: int) -> None:
        """See `open_broker`."""
        parsed = URL(url).update_query(heartbeat=str(_HEARTBEAT_SECONDS))
        self._url = parsed.with_password(password) if password else parsed
        self._prefetch = prefetch
        self._max_deliveries = max_deliveries

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_Session]:
        connection: AbstractConnection | None = None
        try:
            with _as_away():
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    connection = await aio_pika.connect(self._url)
                    session = _Session(connection, self._prefetch, self._max_deliveries)
                    await session.begin()
            yield session
        finally:
            if connection is not None:
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(_TIMEOUT_SECONDS):
                        await connection.close()


@contextlib.contextmanager
def _as_away() -> Iterator[None]:
    try:
        yield
    except (aio_pika.exceptions.AMQPError, OSError, TimeoutError, RuntimeError, asyncio.InvalidStateError) as error:
        # aio_pika says RuntimeError and InvalidStateError of a channel that was closed meanwhile.
        raise BrokerAway(f"RabbitMQ: {type(error).__name__}: {error}") from error


class _Session:
    def __init__(self, connection: AbstractConnection, prefetch: int, max_deliveries: int) -> None:
        self._connection = connection
        self._prefetch = prefetch
        self._max_deliveries = max_deliveries
        self._arrived: asyncio.Queue[AbstractIncomingMessage | BrokerAway] = asyncio.Queue()
        self._channel: AbstractChannel
        self._dead_channel: AbstractChannel | None = None

    async def begin(self) -> None:
        self._connection.close_callbacks.add(self._on_closed)
        self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        self._channel.close_callbacks.add(self._on_closed)
        await self._channel.set_qos(prefetch_count=self._prefetch)  # for each consumer: a quorum queue knows no other
        dead = await self._channel.declare_exchange(_DEAD, aio_pika.ExchangeType.FANOUT, durable=True)
        # Never gives up what nobody can answer: without a limit of its own RabbitMQ 4 has one, of 20.
        graveyard = await self._channel.declare_queue(
            _DEAD, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
        )
        await graveyard.bind(dead)
        for name in _QUEUES:
            await self._channel.declare_queue(
                name,
                durable=True,
                arguments={
                    "x-queue-type": "quorum",
                    "x-delivery-limit": self._max_deliveries,
                    "x-dead-letter-exchange": _DEAD,
                    # Not gone from here before it is there. Needs the overflow said, too.
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                },
            )

    async def publish(self, hints: Sequence[Hint]) -> None:
        with _as_away():
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await asyncio.gather(*map(self._publish, hints))

    async def _publish(self, hint: Hint) -> None:
        message = aio_pika.Message(
            encode_hint(hint), content_type="application/json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        await self._channel.default_exchange.publish(message, _QUEUES[hint.priority], mandatory=True)

    async def deliveries(self) -> AsyncIterator[Delivery]:
        with _as_away():
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                for name in _QUEUES:
                    queue = await self._channel.get_queue(name, ensure=False)
                    await queue.consume(self._arrived.put)
        while True:
            message = await self._arrived.get()
            if isinstance(message, BrokerAway):
                raise message
            yield Delivery(decode_hint(message.body), bool(message.redelivered), message)

    async def acknowledge(self, delivery: Delivery) -> None:
        with _as_away():
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await _message(delivery).ack()

    async def reject(self, delivery: Delivery) -> None:
        with _as_away():
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await _message(delivery).reject(requeue=False)

    async def dead_letters(self) -> int:
        with _as_away():
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._put_dead_letters_back()  # else they would not be counted
                queue = await self._channel.declare_queue(_DEAD, passive=True)
                return queue.declaration_result.message_count or 0

    async def take_dead_letters(self) -> list[Delivery]:
        with _as_away():
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._put_dead_letters_back()
                self._dead_channel = await self._connection.channel()
                queue = await self._dead_channel.get_queue(_DEAD, ensure=False)
                found = []
                while message := await queue.get(fail=False):
                    found.append(Delivery(decode_hint(message.body), True, message))
                return found

    async def _put_dead_letters_back(self) -> None:
        """Those that were taken, and not acknowledged."""
        if self._dead_channel is not None:
            channel, self._dead_channel = self._dead_channel, None
            await channel.close()

    def _on_closed(self, _: object, error: BaseException | None) -> None:
        self._arrived.put_nowait(BrokerAway(f"RabbitMQ hung up: {error}"))


def _message(delivery: Delivery) -> Any:
    return delivery.tag
