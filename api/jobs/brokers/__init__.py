"""Message brokers, by URL. All that is asked of one is to hand each hint to some worker that is there, and to hand it
to another one when that dies. Hints may be lost, doubled and come in any order: chunks.py knows better.

Not FastStream, which the design names: its Redis subscriber stops for good when its stream is evicted (0.7.8: "restart
the application to recreate the group"), which a stream beside a cache has to live with; it has no dead letters there;
and a publisher of it cannot be opened while its broker is away. Each of the three files here stands on the well-kept
client of its own broker instead (aio-pika, redis-py, nats-py), and has what is left to do by hand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from api.jobs.job import Hint


class BrokerAway(Exception):
    """The broker did not answer. What was published may be there or not; what was delivered comes again."""


class Delivery(NamedTuple):
    """A hint, until it is acknowledged or rejected. If neither happens before its worker is gone, it comes again."""

    hint: Hint
    is_redelivered: bool
    """Somebody had it before, and is gone or gave it back."""
    tag: object
    """The broker's own."""


class Session(Protocol):
    """A connection. Each method raises BrokerAway, and the session is then of no more use."""

    async def publish(self, hints: Sequence[Hint]) -> None:
        """Returns once the broker has them safe, as far as it goes."""

    def deliveries(self) -> AsyncIterator[Delivery]:
        """To be called once. No more than `prefetch` of a priority are unacknowledged at a time."""

    async def acknowledge(self, delivery: Delivery) -> None: ...

    async def reject(self, delivery: Delivery) -> None:
        """To the dead letters."""

    async def dead_letters(self) -> int:
        """How many there are."""

    async def take_dead_letters(self) -> list[Delivery]:
        """Those there are, to be acknowledged; what is not, is a dead letter again when the session ends."""


class Broker(Protocol):
    def session(self) -> AbstractAsyncContextManager[Session]:
        """Raises BrokerAway at its beginning, and whatever is raised inside."""


def open_broker(url: str, *, password: str | None, prefetch: int, max_deliveries: int, idle_seconds: float) -> Broker:
    """Connects to nothing yet.

    Args:
        url: amqp:// and amqps:// for RabbitMQ; nats:// and tls:// for NATS; redis://, rediss:// and unix:// for Redis.
        prefetch: hints of a priority that a worker holds.
        max_deliveries: after which the broker itself gives a hint up.
        idle_seconds: after which consumers of Redis and NATS count as gone; RabbitMQ knows by their connection.
    Raises:
        ValueError: another kind of URL.
    """
    # Imported here: who uses one need not have the other.
    match url.partition(":")[0]:
        case "amqp" | "amqps":
            from api.jobs.brokers.rabbitmq import RabbitMq

            return RabbitMq(url, password=password, prefetch=prefetch, max_deliveries=max_deliveries)
        case "nats" | "tls":
            from api.jobs.brokers.nats_jetstream import NatsJetStream

            return NatsJetStream(
                url, password=password, prefetch=prefetch, max_deliveries=max_deliveries, idle_seconds=idle_seconds
            )
        case "redis" | "rediss" | "unix":
            from api.jobs.brokers.redis_streams import RedisStreams

            return RedisStreams(
                url, password=password, prefetch=prefetch, max_deliveries=max_deliveries, idle_seconds=idle_seconds
            )
        case scheme:
            raise ValueError(
                f"expected the URL of a message broker: amqp://, nats://, redis:// or unix://, got {scheme}:"
            )
