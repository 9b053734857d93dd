"""NATS JetStream, 2.9 or newer: a work queue on disk, with a pull consumer for each priority.

As with Redis it is silence that tells of a worker that is gone: what is held is said to be in progress, and what is not
is delivered again after `idle_seconds`. The stream is made where there is none, and else taken as it is, so whoever has
a cluster may give it replicas. What is confirmed is not synced to disk yet: chunks.py sees to what is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError
from yarl import URL

from api.jobs.brokers import BrokerAway, Delivery
from api.jobs.job import PRIORITIES, Hint, decode_hint, encode_hint
from api.prediction_log.link import end

_STREAM = "shoal-jobs"
_SUBJECTS = tuple(f"shoal.jobs.{name}" for name in PRIORITIES)
_DEAD = "shoal.jobs.dead"  # in the same stream, where no consumer takes it
_TIMEOUT_SECONDS = 5
_PING_SECONDS = 5  # nats-py's own default is 120, and it hangs up when two were not answered
_PULL_SECONDS = 2  # so long a worker that is frozen may still be sent messages
_PULL = msgspec.json.encode({"batch": 1, "expires": _PULL_SECONDS * 10**9})


class NatsJetStream:
    def __init__(
        self, url: str, *, password: str | None, prefetch: int, max_deliveries: int, idle_seconds: float
    ) -> None:
        """See `open_broker`."""
        parsed = URL(url)
        self._url = parsed.with_user(None)
        # Not left in the URL, from where nats-py takes them as they are quoted. One without the other is a token.
        self._user = parsed.user
        self._password = password or parsed.password
        self._prefetch = prefetch
        self._max_deliveries = max_deliveries
        self._idle_seconds = idle_seconds

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_Session]:
        client = Client()
        session = _Session(client, self._prefetch, self._max_deliveries, self._idle_seconds)
        try:
            with _as_away():
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    await self._connect(client, session)
                    await session.begin()
            yield session
        finally:
            for end_of in (session.end, client.close):
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(_TIMEOUT_SECONDS):
                        await end_of()

    async def _connect(self, client: Client, session: _Session) -> None:
        try:
            await client.connect(
                str(self._url),
                name="shoal",
                user=self._user,
                password=self._password,
                token=self._password or self._user,
                error_cb=session.on_error,
                closed_cb=session.on_closed,
                connect_timeout=_TIMEOUT_SECONDS,
                ping_interval=_PING_SECONDS,
                # Who has the session tries again, with a new one. No attempts at all would be attempts for ever.
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
            )
        except nats.errors.NoServersError as error:
            raise session.error or error from None  # which says why
        if self._url.scheme == "tls" and not client._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError  # nats-py would go on in the clear


@contextlib.contextmanager
def _as_away() -> Iterator[None]:
    try:
        yield
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise BrokerAway(f"NATS: {type(error).__name__}: {error}") from error


class _Session:
    def __init__(self, client: Client, prefetch: int, max_deliveries: int, idle_seconds: float) -> None:
        self._client = client
        self._max_deliveries = max_deliveries
        self._idle_seconds = idle_seconds
        self._jetstream: JetStreamContext = client.jetstream(timeout=_TIMEOUT_SECONDS)
        self._room = [asyncio.Semaphore(prefetch) for _ in PRIORITIES]
        self._held: dict[int, Msg] = {}  # by their number in the stream
        self._arrived: asyncio.Queue[Msg | BrokerAway] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._pulled: list[tuple[Subscription, asyncio.Queue[Msg]]] = []  # answers to pulls, also those that come late
        self.error: Exception | None = None
        """The client's last one."""

    async def begin(self) -> None:
        try:
            await self._jetstream.stream_info(_STREAM)
        except NotFoundError:
            await self._jetstream.add_stream(
                StreamConfig(name=_STREAM, subjects=[*_SUBJECTS, _DEAD], retention=RetentionPolicy.WORK_QUEUE)
            )
        for name, subject in zip(PRIORITIES, _SUBJECTS, strict=True):
            await self._jetstream.add_consumer(
                _STREAM,
                ConsumerConfig(
                    durable_name=name,
                    filter_subject=subject,
                    ack_wait=self._idle_seconds,
                    # These are of all workers together: what each of them holds is bounded by what it pulls, and what
                    # was delivered too often would lie there for ever. See `deliveries`.
                    max_ack_pending=-1,
                    max_deliver=-1,
                ),
            )

    async def end(self) -> None:
        """What is held is somebody else's after `idle_seconds`; what nobody has been given yet, at once."""
        for task in self._tasks:
            await end(task)
        for subscription, answers in self._pulled:
            await subscription.drain()  # type: ignore[no-untyped-call]  # what is on its way is here then
            while not answers.empty():
                if not _status(message := answers.get_nowait()):
                    await message.nak()
        while not self._arrived.empty():
            if isinstance(arrived := self._arrived.get_nowait(), Msg):
                await arrived.nak()

    async def publish(self, hints: Sequence[Hint]) -> None:
        with _as_away():
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await asyncio.gather(*(self._publish(_SUBJECTS[hint.priority], encode_hint(hint)) for hint in hints))

    async def _publish(self, subject: str, data: bytes) -> None:
        await self._jetstream.publish(subject, data, stream=_STREAM)  # returns when it is confirmed

    async def deliveries(self) -> AsyncIterator[Delivery]:
        self._tasks = [asyncio.create_task(self._until_away(self._show_life))]
        for priority in range(len(PRIORITIES)):
            self._tasks.append(asyncio.create_task(self._until_away(partial(self._pull, priority))))
        while True:
            message = await self._arrived.get()
            if isinstance(message, BrokerAway):
                raise message
            times = message.metadata.num_delivered
            delivery = Delivery(decode_hint(message.data), times > 1, message)
            if times > self._max_deliveries:
                await self.reject(delivery)
            else:
                yield delivery

    async def acknowledge(self, delivery: Delivery) -> None:
        with _as_away():
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                if isinstance(delivery.tag, int):
                    await self._jetstream.delete_msg(_STREAM, delivery.tag)
                else:
                    await self._forget(delivery).ack()

    async def reject(self, delivery: Delivery) -> None:
        message = self._forget(delivery)
        with _as_away():
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._publish(_DEAD, message.data)
                await message.ack()

    async def dead_letters(self) -> int:
        with _as_away():
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                info = await self._jetstream.stream_info(_STREAM, subjects_filter=_DEAD)
                return (info.state.subjects or {}).get(_DEAD, 0)

    async def take_dead_letters(self) -> list[Delivery]:
        found: list[Delivery] = []
        number = 0
        with _as_away(), contextlib.suppress(NotFoundError):  # when there are no more
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                while True:
                    message = await self._jetstream.get_msg(_STREAM, number + 1, _DEAD, next=True)
                    number = message.seq or 0
                    found.append(Delivery(decode_hint(message.data or b""), True, number))
        return found

    async def on_error(self, error: Exception) -> None:
        self.error = error

    async def on_closed(self) -> None:
        self._arrived.put_nowait(BrokerAway(f"NATS hung up: {self.error or self._client.last_error}"))

    async def _until_away(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            with _as_away():
                await work()
        except BrokerAway as error:
            self._arrived.put_nowait(error)

    async def _show_life(self) -> None:
        """What is held for long is not left behind: its time starts anew."""
        while True:
            await asyncio.sleep(self._idle_seconds / 3)
            for message in list(self._held.values()):
                await message.in_progress()

    async def _pull(self, priority: int) -> None:
        # Not by nats-py's PullSubscription, which loses what comes as a fetch is cancelled, or after that.
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        subscription = await self._client.subscribe(self._client.new_inbox(), cb=answers.put)
        self._pulled.append((subscription, answers))
        while True:
            await self._room[priority].acquire()
            message = await self._next(PRIORITIES[priority], subscription.subject, answers)
            number = message.metadata.sequence.stream
            if number in self._held:
                self._room[priority].release()  # this worker itself was silent for too long
            else:
                self._arrived.put_nowait(message)
            self._held[number] = message

    async def _next(self, consumer: str, inbox: str, answers: asyncio.Queue[Msg]) -> Msg:
        while True:
            await self._client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{_STREAM}.{consumer}", _PULL, inbox)
            try:
                async with asyncio.timeout(_PULL_SECONDS + 1):
                    message = await answers.get()
                if not _status(message):
                    return message
            except TimeoutError:
                pass
            # None came, or JetStream does not know who was asked. It does not say anything where he was deleted since.
            await self._jetstream.consumer_info(_STREAM, consumer)

    def _forget(self, delivery: Delivery) -> Msg:
        message: Any = delivery.tag
        if (held := self._held.pop(message.metadata.sequence.stream, None)) is not None:
            self._room[delivery.hint.priority].release()
        return held or message


def _status(message: Msg) -> str | None:
    """Of an answer that brings no message."""
    return (message.headers or {}).get("Status")
