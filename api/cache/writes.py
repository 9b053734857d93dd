"""Answers on their way into Redis. Nobody waits for them: losing one costs a later miss."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from api import metrics
from api.cache.breaker import Breaker
from api.cache.commands import release_many, set_many
from api.cache.connection import Link

logger = logging.getLogger(__name__)

_MAX_UNWRITTEN_BYTES = 2 * 1024 * 1024  # about 10,000 answers; beyond, Redis is slower than the models
_LOG_SECONDS = 60  # a Redis that is full refuses every answer, and need not say so every time


class Writes:
    """Writes what was put in one turn of the event loop together, on a connection of its own: lookups do not queue
    behind a burst of answers, and a Redis that reads no more holds up nobody."""

    def __init__(self, link: Link, *, ttl_seconds: int, breaker: Breaker) -> None:
        self._link = link
        self._ttl_seconds = ttl_seconds
        self._breaker = breaker
        self._values: list[tuple[bytes, bytes]] = []
        self._claimed: list[bytes] = []
        self._lost = 0
        self._log_again_at = 0.0

    def put_many(self, values: Sequence[tuple[bytes, bytes]], claimed: Sequence[bytes] = ()) -> None:
        """Keys and values; those that do not fit into the backlog are dropped and counted.

        claimed: keys whose claims are given back, after the values are there.
        """
        if not self._values and not self._claimed:
            asyncio.get_running_loop().call_soon(self.flush)
        self._values.extend(values)
        self._claimed.extend(claimed)

    def flush(self) -> None:
        values, self._values = self._values, []
        claimed, self._claimed = self._claimed, []
        if not values and not claimed:
            return
        if self._link.unwritten_bytes > _MAX_UNWRITTEN_BYTES:
            self._lose(len(values), "it takes them too slowly")
        elif not self._link.is_open and not self._breaker.allows():
            self._lose(len(values), "it cannot be reached")
        else:
            commands = set_many(values, self._ttl_seconds)
            replies = len(values)
            if claimed:
                commands += release_many(claimed)
                replies += 1
            self._link.send(commands, replies, partial(self._written, len(values)))

    def _lose(self, answers: int, why: object) -> None:
        """Counts answers that Redis does not get, and says so now and then."""
        metrics.CACHE_WRITE_FAILURES.inc(answers)
        self._lost += answers
        if not self._lost:
            return  # it was only claims, which run out by themselves
        now = time.monotonic()
        if now >= self._log_again_at:
            self._log_again_at = now + _LOG_SECONDS
            logger.warning("%d answers were not written to redis: %s", self._lost, why)
            self._lost = 0

    def _written(self, answers: int, replies: list[Any]) -> None:
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if not errors:
            self._breaker.succeeded()
            return
        if isinstance(errors[-1], OSError):
            self._breaker.failed()  # the connection is lost
        self._lose(min(len(errors), answers), errors[-1])
