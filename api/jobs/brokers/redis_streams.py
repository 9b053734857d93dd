"""Redis Streams with a consumer group: 6.2 or newer, and what speaks its protocol.

The Redis of `make run` is a cache that evicts what it likes, this stream and its group too. Then XREADGROUP says
NOGROUP, the group is made anew, and what was in it is published again once chunks.py takes it for lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from api.jobs.brokers import BrokerAway, Delivery
from api.jobs.job import PRIORITIES, Hint, decode_hint, encode_hint

_STREAMS = tuple(f"shoal:jobs:{name}" for name in PRIORITIES)
_DEAD = "shoal:jobs:dead"
_GROUP = "workers"
_BLOCK_SECONDS = 0.5
_GLANCE_SECONDS = 0.05  # between looks for what is more urgent than what is held
_TIMEOUT_SECONDS = 5
_FORGET_CONSUMER_SECONDS = 600


class RedisStreams:
    def __init__(
        self, url: str, *, password: str | None, prefetch: int, max_deliveries: int, idle_seconds: float
    ) -> None:
        """See `open_broker`."""
        self._url = url
        self._password = password
        self._prefetch = prefetch
        self._max_deliveries = max_deliveries
        self._idle_seconds = idle_seconds

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_Session]:
        client = redis.asyncio.Redis.from_url(
            self._url,
            password=self._password,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=None,  # who has the session tries again, with a new one
        )
        session = _Session(client, self._prefetch, self._max_deliveries, self._idle_seconds)
        try:
            with _as_away():
                await session.begin()
            yield session
        finally:
            await session.end()
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()


@contextlib.contextmanager
def _as_away() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise BrokerAway(f"Redis: {error}") from error


class _Session:
    def __init__(self, client: Any, prefetch: int, max_deliveries: int, idle_seconds: float) -> None:
        self._client = client  # its methods are typed as sync or async at once
        self._prefetch = prefetch
        self._max_deliveries = max_deliveries
        self._idle_seconds = idle_seconds
        self._consumer = uuid4().hex
        self._held: dict[tuple[str, bytes], Delivery] = {}
        self._room = asyncio.Event()
        self._looked = 0.0  # when for what others left behind

    async def begin(self) -> None:
        await self._make_groups()

    async def end(self) -> None:
        """What is held is somebody else's after `idle_seconds`."""
        with contextlib.suppress(RedisError, OSError):
            for stream in _STREAMS:
                await self._put_back(stream)
                if not self._held:
                    await self._client.xgroup_delconsumer(stream, _GROUP, self._consumer)

    async def _put_back(self, stream: str) -> None:
        """What was sent here as a read was broken off: nobody has it, and it would be gone with this consumer."""
        sent = await self._client.xpending_range(stream, _GROUP, "-", "+", 1000, consumername=self._consumer)
        for id in [entry["message_id"] for entry in sent if (stream, entry["message_id"]) not in self._held]:
            async with self._client.pipeline(transaction=True) as pipeline:
                for _, fields in await self._client.xrange(stream, id, id):
                    pipeline.xadd(stream, fields)
                pipeline.xack(stream, _GROUP, id)
                pipeline.xdel(stream, id)
                await pipeline.execute()

    async def publish(self, hints: Sequence[Hint]) -> None:
        with _as_away():
            async with self._client.pipeline(transaction=True) as pipeline:
                for hint in hints:
                    pipeline.xadd(_STREAMS[hint.priority], {"hint": encode_hint(hint)})
                await pipeline.execute()

    async def deliveries(self) -> AsyncIterator[Delivery]:
        with _as_away():
            while True:
                try:
                    found = await self._read()
                except ResponseError as error:
                    if "NOGROUP" not in str(error):
                        raise
                    await self._make_groups()  # evicted, or flushed
                    continue
                for delivery in found:
                    yield delivery

    async def acknowledge(self, delivery: Delivery) -> None:
        stream, id = self._forget(delivery)
        with _as_away():
            async with self._client.pipeline(transaction=True) as pipeline:
                if stream != _DEAD:
                    pipeline.xack(stream, _GROUP, id)
                pipeline.xdel(stream, id)
                await pipeline.execute()

    async def reject(self, delivery: Delivery) -> None:
        stream, id = self._forget(delivery)
        with _as_away():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.xadd(_DEAD, {"hint": encode_hint(delivery.hint)})
                pipeline.xack(stream, _GROUP, id)
                pipeline.xdel(stream, id)
                await pipeline.execute()

    async def dead_letters(self) -> int:
        with _as_away():
            return int(await self._client.xlen(_DEAD))

    async def take_dead_letters(self) -> list[Delivery]:
        with _as_away():
            entries = await self._client.xrange(_DEAD)
        return [Delivery(decode_hint(fields[b"hint"]), True, (_DEAD, id)) for id, fields in entries]

    def _forget(self, delivery: Delivery) -> tuple[str, bytes]:
        tag: Any = delivery.tag  # of our own making
        stream, id = tag
        self._held.pop((stream, id), None)
        self._room.set()
        return stream, id

    async def _make_groups(self) -> None:
        for stream in _STREAMS:
            try:
                await self._client.xgroup_create(stream, _GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def _read(self) -> list[Delivery]:
        """What is new, and now and then what a consumer that is gone has left behind."""
        if time.monotonic() > self._looked + self._idle_seconds / 3:
            self._looked = time.monotonic()
            await self._show_life()
            if found := await self._left_behind():
                return found
        held = [sum(stream == each for stream, _ in self._held) for each in _STREAMS]
        room = {stream: ">" for stream, count in zip(_STREAMS, held, strict=True) if count < self._prefetch}
        if len(room) == len(_STREAMS):
            return await self._read_new(room, block=int(_BLOCK_SECONDS * 1000))
        # One of them is full, and may have room before anything comes in the others: so it cannot be Redis that waits.
        self._room.clear()
        if room and (found := await self._read_new(room, block=None)):
            return found
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GLANCE_SECONDS):
                await self._room.wait()
        return []

    async def _read_new(self, room: dict[str, str], block: int | None) -> list[Delivery]:
        found = await self._client.xreadgroup(_GROUP, self._consumer, room, count=1, block=block)
        entries = found.items() if isinstance(found, dict) else found or ()
        return [
            self._hold(stream.decode(), id, fields, is_redelivered=False)
            for stream, batch in entries
            for id, fields in _flat(batch)
        ]

    def _hold(self, stream: str, id: bytes, fields: Any, *, is_redelivered: bool) -> Delivery:
        delivery = Delivery(decode_hint(fields[b"hint"]), is_redelivered, (stream, id))
        self._held[stream, id] = delivery
        return delivery

    async def _show_life(self) -> None:
        """What is held for long is not left behind: its idle time starts anew."""
        for stream in _STREAMS:
            if ids := [id for held_in, id in self._held if held_in == stream]:
                await self._client.xclaim(stream, _GROUP, self._consumer, 0, ids, justid=True)

    async def _left_behind(self) -> list[Delivery]:
        found = []
        for stream in _STREAMS:
            reply = await self._client.xautoclaim(
                stream, _GROUP, self._consumer, int(self._idle_seconds * 1000), count=self._prefetch
            )
            for id, fields in reply[1]:
                if not fields or (stream, id) in self._held:
                    continue  # deleted meanwhile, or ours
                delivery = self._hold(stream, id, fields, is_redelivered=True)
                [pending] = await self._client.xpending_range(stream, _GROUP, id, id, 1) or [{"times_delivered": 0}]
                if pending["times_delivered"] > self._max_deliveries:
                    await self.reject(delivery)
                else:
                    found.append(delivery)
            for consumer in await self._client.xinfo_consumers(stream, _GROUP):
                if not consumer["pending"] and consumer["idle"] > _FORGET_CONSUMER_SECONDS * 1000:
                    await self._client.xgroup_delconsumer(stream, _GROUP, consumer["name"])
        return found


def _flat(batch: Any) -> Any:
    """The entries of a stream: RESP 3 has them a list deeper than RESP 2."""
    is_deeper = batch and isinstance(batch[0], list) and batch[0] and isinstance(batch[0][0], tuple | list)
    return batch[0] if is_deeper else batch
