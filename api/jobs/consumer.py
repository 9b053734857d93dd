"""From the broker to the predictor and back: takes chunks, answers them, settles them, and only then acknowledges.

Whatever breaks, a chunk is settled once (chunks.py), so all that is to be seen to here is that it is tried again: by
the broker where this worker is gone, by Postgres where the message is.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from api import metrics
from api.errors import JobsUnavailable
from api.jobs.answering import Answerer
from api.jobs.brokers import Broker, BrokerAway, Delivery, Session
from api.jobs.chunks import Chunks, Stale, Taken
from api.jobs.pace import Pace
from api.jobs.relay import Relay
from api.prediction_log.link import end

logger = logging.getLogger(__name__)
T = TypeVar("T")

_AGAIN_SECONDS = 0.5  # between tries while the broker or Postgres is away
_HANG_UP_SECONDS = 5  # for taking leave of the broker


class Consumer:
    def __init__(
        self,
        broker: Broker,
        chunks: Chunks,
        answerer: Answerer,
        relay: Relay,
        pace: Pace,
        *,
        lanes: int,
        retry_seconds: float,
    ) -> None:
        """
        Args:
            lanes: chunks that are answered at the same time: while one waits for its commit, another computes.
            retry_seconds: until a chunk that failed is tried again; twice as long each time.
        """
        self._broker = broker
        self._chunks = chunks
        self._answerer = answerer
        self._relay = relay
        self._pace = pace
        self._lanes = lanes
        self._retry_seconds = retry_seconds
        self._waiting: list[tuple[int, int, Session, Delivery]] = []  # a heap, the most urgent first
        self._order = itertools.count()
        self._arrived = asyncio.Event()
        self._stopping = asyncio.Event()
        self._conversing: list[asyncio.Task[None]] = []
        self.running: dict[int, Taken] = {}
        """By lane."""
        self.session: Session | None = None
        """With the broker; None while it is away."""

    def stop(self) -> None:
        """Takes no further chunk. `run` returns when those in hand are settled."""
        self._stopping.set()
        self._arrived.set()

    async def run(self) -> None:
        connected = asyncio.create_task(self._keep_connected(), name="jobs: broker")
        try:
            async with asyncio.TaskGroup() as group:
                for lane in range(self._lanes):
                    group.create_task(self._work(lane), name=f"jobs: lane {lane}")
        finally:
            # First nothing comes or goes any more: else what is given back would at once be published and delivered
            # here again, and of Redis' streams nobody else would have it before the lease has ended.
            for task in self._conversing:
                await end(task)
            await self._give_back()
            await end(connected, again_seconds=_HANG_UP_SECONDS)

    # --- the broker ---------------------------------------------------------------------------------------------------
    async def _keep_connected(self) -> None:
        reported = ""
        while True:
            try:
                async with self._broker.session() as session:
                    reported = ""
                    logger.info("connected to the broker")
                    await self._converse(session)
            except BrokerAway as error:
                if str(error) != reported:  # once, and not at every attempt
                    logger.warning("the broker is away; jobs are taken in, and wait: %s", error)
                    reported = str(error)
            except Exception:  # whatever it was: without another attempt jobs would wait for ever
                logger.exception("the conversation with the broker broke off, and is begun anew")
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _converse(self, session: Session) -> None:
        if self._stopping.is_set():
            return
        self.session = session
        metrics.JOB_BROKER_UP.set(1)
        # Not a TaskGroup, which cancels once: a client of Redis that is just giving up by itself loses that.
        both = [asyncio.create_task(self._receive(session)), asyncio.create_task(self._relay.run(session))]
        self._conversing = both
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                await asyncio.Event().wait()  # what is in hand is acknowledged still; `run` cancels this
        finally:
            for task in both:
                await end(task)
            self._conversing = []
            self.session = None
            metrics.JOB_BROKER_UP.set(0)
            # They come again; what is being answered goes on, and finds out at its end whether it was for nothing.
            self._waiting = [entry for entry in self._waiting if entry[2] is not session]
            heapq.heapify(self._waiting)
        for error in [task.exception() for task in both if not task.cancelled()]:
            if error is not None:
                raise error  # what ended it

    async def _receive(self, session: Session) -> None:
        async for delivery in session.deliveries():
            heapq.heappush(self._waiting, (-delivery.hint.priority, next(self._order), session, delivery))
            self._arrived.set()

    async def _give_back(self) -> None:
        """What has been delivered and not begun is published anew, for others."""
        entries, self._waiting = self._waiting, []
        try:
            if entries:
                await self._chunks.unpublish([delivery.hint for _, _, _, delivery in entries])
            for _, _, session, delivery in entries:
                await session.acknowledge(delivery)
            for taken in self.running.values():
                await self._chunks.release(taken)
        except (JobsUnavailable, BrokerAway) as error:
            logger.warning("what is left is found by the others in a while: %s", error)

    # --- the chunks ---------------------------------------------------------------------------------------------------
    async def _work(self, lane: int) -> None:
        while not self._stopping.is_set():
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            _, _, session, delivery = heapq.heappop(self._waiting)
            try:
                is_dead = await self._handle(lane, delivery)
            except Exception:  # whatever it was: the lane goes on. The chunk's lease ends, and it is tried again
                logger.exception("chunk %d of job %s fell on the floor", delivery.hint.chunk, delivery.hint.job)
                is_dead = False
            self.running.pop(lane, None)
            # Of a session that has ended it comes again, and is settled; asked now, Redis' client would connect anew,
            # for nobody to close.
            if session is self.session:
                with contextlib.suppress(BrokerAway):
                    await (session.reject(delivery) if is_dead else session.acknowledge(delivery))
            self._relay.wake.set()

    async def _handle(self, lane: int, delivery: Delivery) -> bool:
        """Whether the chunk is given up."""
        hint = delivery.hint
        taken = await self._insist(lambda: self._chunks.take(hint, is_redelivered=delivery.is_redelivered))
        if taken is None:
            metrics.JOB_CHUNKS_NEEDLESS.inc()
            # It may have been given up just before the broker died, or the worker that was to tell it.
            return delivery.is_redelivered and bool(await self._insist(lambda: self._chunks.dead_among([hint])))
        self.running[lane] = taken
        if taken.attempts_left < 0:
            return await self._failed(taken, RuntimeError("each worker that took it was gone before it was done"))
        begun = time.monotonic()
        try:
            answered = await self._answerer.answer(taken)
            await self._insist(lambda: self._chunks.settle(taken, *answered, self._pace))
        except Stale:
            metrics.JOB_CHUNKS_STALE.inc()
            return False
        except Exception as error:  # noqa: BLE001  the model's rows are seen to; this is a chunk that nobody can answer, or a bug
            return await self._failed(taken, error)
        metrics.JOB_CHUNKS_DONE.inc()
        metrics.JOB_CHUNK_SECONDS.observe(time.monotonic() - begun)
        metrics.JOB_ROWS_ANSWERED.inc(len(answered.predictions))
        metrics.JOB_ROWS_FAILED.inc(len(answered.errors))
        return False

    async def _failed(self, taken: Taken, error: Exception) -> bool:
        # The first line: Postgres quotes the row in the second.
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        pause = self._retry_seconds * 2 ** min(taken.attempt - 1, 6)
        is_dead = await self._insist(lambda: self._chunks.fail(taken, reason, retry_seconds=pause))
        (metrics.JOB_CHUNKS_DEAD if is_dead else metrics.JOB_CHUNKS_RETRIED).inc()
        what_next = "is given up" if is_dead else f"is tried again in {pause:g} s"
        logger.warning("chunk %d of job %s failed and %s", taken.number, taken.job, what_next, exc_info=error)
        return is_dead

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Until Postgres answers. What it is asked may have happened already: all of it can be asked twice."""
        while True:
            try:
                return await ask()
            except JobsUnavailable:
                await asyncio.sleep(_AGAIN_SECONDS)
