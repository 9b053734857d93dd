"""Questions to Redis that have a time budget, and a breaker for when it does not keep to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from api import metrics
from api.cache.breaker import Breaker
from api.cache.connection import Link, after_reading

logger = logging.getLogger(__name__)

OnAnswers = Callable[[list[Any] | None], None]


class _Lookup:
    __slots__ = ("asked_at", "is_done", "on_answers", "rows")

    def __init__(self, asked_at: float, rows: int, on_answers: OnAnswers) -> None:
        self.asked_at = asked_at
        self.rows = rows
        self.on_answers = on_answers
        self.is_done = False


class Lookups:
    """Asks, and says None where the answer did not come in time.

    One timer watches over the oldest. An answer that comes after its budget still takes its place in the order of
    replies and is dropped there, so a Redis that is slow for a moment keeps its connections; see Connection for one
    that stays silent.
    """

    def __init__(self, link: Link, *, budget_seconds: float, breaker: Breaker) -> None:
        self._link = link
        self._budget_seconds = budget_seconds
        self._breaker = breaker
        self._waiting: deque[_Lookup] = deque()
        self._timer: asyncio.Handle | None = None
        self._failed_at = -1.0

    @property
    def is_up(self) -> bool:
        return not self._breaker.is_open

    def ask(self, commands: bytes, count: int, on_answers: OnAnswers, *, rows: int) -> None:
        """Writes at once: the reply travels while the event loop is busy with others.

        Args:
            count: replies to the commands. The last one decides: an error there is a failure of Redis.
            on_answers: told the replies once, or None, which may be before this returns.
            rows: how many the metrics count this lookup for.
        """
        if not self._breaker.allows():
            metrics.CACHE_SKIPPED.inc(rows)
            on_answers(None)
            return
        lookup = _Lookup(time.monotonic(), rows, on_answers)
        self._waiting.append(lookup)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._budget_seconds, self._check)
        self._link.send(commands, count, partial(self._replied, lookup))

    def _replied(self, lookup: _Lookup, replies: list[Any]) -> None:
        if lookup.is_done:
            return
        self._waiting.remove(lookup)  # the first of them, as replies come in order
        if isinstance(replies[-1], Exception):
            self._fail(lookup, replies[-1])
            return
        lookup.is_done = True
        if self._breaker.is_open:
            metrics.CACHE_BREAKER_OPEN.set(0)
            logger.warning("redis is back")
        self._breaker.succeeded()
        lookup.on_answers(replies)

    def _check(self) -> None:
        self._timer = None
        if self._waiting:
            loop = asyncio.get_running_loop()
            rest = self._waiting[0].asked_at + self._budget_seconds - time.monotonic()
            if rest > 0:
                self._timer = loop.call_later(rest, self._check)
            else:
                # On a busy machine it may be this loop that was late, and not Redis.
                self._timer = after_reading(loop, self._expire)

    def _expire(self) -> None:
        asked_before = time.monotonic() - self._budget_seconds
        while self._waiting and self._waiting[0].asked_at <= asked_before:
            self._fail(self._waiting.popleft(), TimeoutError(f"no answer within {self._budget_seconds} s"))
        self._check()

    def _fail(self, lookup: _Lookup, error: Exception) -> None:
        lookup.is_done = True
        metrics.CACHE_ERRORS.inc(lookup.rows)
        if lookup.asked_at > self._failed_at:
            # Else it waited for the same Redis at the same time as one that counted: a stall is one failure, however
            # many it held up.
            self._failed_at = time.monotonic()
            self._count(error)
        lookup.on_answers(None)

    def _count(self, error: Exception) -> None:
        was_open = self._breaker.is_open
        self._breaker.failed()
        if self._breaker.is_open and not was_open:
            metrics.CACHE_BREAKER_OPEN.set(1)
            logger.warning("redis is left alone after it failed: %s: %s", type(error).__name__, error)
