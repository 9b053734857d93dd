"""What is left lying: lost messages, leases that ended, uploads that broke off, dead letters that are no more."""

from __future__ import annotations

import asyncio
import logging
import time

from api import metrics
from api.errors import JobsUnavailable
from api.jobs.brokers import BrokerAway
from api.jobs.chunks import Backlog, Chunks
from api.jobs.consumer import Consumer
from api.jobs.relay import Relay

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2  # at the backlog
_BROKEN_OFF_SECONDS = 600
_TIDY_SECONDS = 600


class Upkeep:
    def __init__(
        self, chunks: Chunks, consumer: Consumer, relay: Relay, *, lease_seconds: float, retention_days: int
    ) -> None:
        self._chunks = chunks
        self._consumer = consumer
        self._relay = relay
        self._lease_seconds = lease_seconds
        self._retention_days = retention_days
        self._renewed = time.monotonic()
        self._tidied = 0.0

    async def run(self) -> None:
        """Until it is cancelled."""
        pause = min(_LOOK_SECONDS, self._lease_seconds / 4)
        while True:
            try:
                await self._look()
            except (JobsUnavailable, BrokerAway) as error:
                logger.debug("upkeep of jobs waits: %s", error)
            except Exception:  # whatever it was: without upkeep what is lost stays lost
                logger.exception("upkeep of jobs failed, and goes on")
            await asyncio.sleep(pause)

    async def _look(self) -> None:
        if self._consumer.running and time.monotonic() > self._renewed + self._lease_seconds / 3:
            self._renewed = time.monotonic()
            await self._chunks.renew(list(self._consumer.running.values()))
        if recovered := await self._chunks.recover():
            logger.warning("%d chunks were lost on their way, or with their worker, and are ready again", recovered)
            self._relay.wake.set()
        backlog = await self._chunks.backlog()
        _show(backlog)
        if (session := self._consumer.session) is not None:
            dead_letters = await session.dead_letters()
            metrics.JOB_DEAD_LETTERS.set(dead_letters)
            if dead_letters > backlog.dead_chunks:
                await self._bury()
        if time.monotonic() > self._tidied + _TIDY_SECONDS:
            self._tidied = time.monotonic()
            await self._chunks.tidy(retention_days=self._retention_days, broken_off_seconds=_BROKEN_OFF_SECONDS)

    async def _bury(self) -> None:
        """Takes out the dead letters of chunks that were requeued, or cancelled, or settled after all."""
        session = self._consumer.session
        if session is None:
            return
        letters = await session.take_dead_letters()
        dead = await self._chunks.dead_among([letter.hint for letter in letters])
        for letter in letters:
            if (letter.hint.job, letter.hint.chunk) not in dead:
                await session.acknowledge(letter)
            dead.discard((letter.hint.job, letter.hint.chunk))  # one letter each is enough


def _show(backlog: Backlog) -> None:
    metrics.JOB_BACKLOG_CHUNKS.labels("waiting").set(backlog.waiting_chunks)
    metrics.JOB_BACKLOG_CHUNKS.labels("running").set(backlog.running_chunks)
    metrics.JOB_BACKLOG_CHUNKS.labels("dead").set(backlog.dead_chunks)
    metrics.JOB_BACKLOG_ROWS.set(backlog.waiting_rows)
    metrics.JOB_OLDEST_SECONDS.set(backlog.oldest_seconds)
