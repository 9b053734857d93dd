"""Who computes a row when several replicas miss it at once: whoever sets its claim in Redis first."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from api import metrics
from api.cache.commands import claim, mget
from api.cache.lookups import Lookups

OnValues = Callable[[list[tuple[bytes, bytes | None]]], None]

_POLL_SECONDS = 0.002
_POLL_SHARE = 1 / 8  # of the time waited so far: few questions while a model takes long, and little delay after it


class _Waiter:
    __slots__ = ("ask_at", "key", "lease_seconds", "on_values", "since")

    def __init__(self, key: bytes, lease_seconds: float, on_values: OnValues, since: float) -> None:
        self.key = key
        self.lease_seconds = lease_seconds
        self.on_values = on_values
        self.since = since
        self.ask_at = since

    def may_wait(self, now: float) -> bool:
        """For two leases at most: who takes over from a holder that died may die too, and then it is enough."""
        waited = now - self.since
        self.ask_at = now + max(_POLL_SECONDS, waited * _POLL_SHARE)
        return waited < 2 * self.lease_seconds


class Claims:
    """Claims of keys, and the wait for what others have claimed.

    Who waits asks again from time to time, for the value and for the claim in one: so the answer is found, or the claim
    taken over, whether its holder finished, gave up or died. One write asks for all that this worker waits for.

    A claim is one more round trip of a miss: 40 us of the worker's CPU (6 us a row when 64 rows come together) and
    30 us of Redis'; with the round trip, about 0.1 ms. Waiting asks 6 times in 10 ms, 17 times in 50 ms and 28 times in
    200 ms, and hears of the value an eighth of the wait later at worst.
    """

    def __init__(self, lookups: Lookups, release: Callable[[list[bytes]], None]) -> None:
        """release: gives back the claims of these keys."""
        self._lookups = lookups
        self._release = release
        self._waiting: list[_Waiter] = []
        self._timer: asyncio.TimerHandle | None = None
        self._held: dict[bytes, float] = {}  # and when it runs out

    def claim_many(self, keys: Sequence[bytes], *, lease_seconds: float, on_values: OnValues) -> None:
        """See SharedCache.claim_many."""
        now = time.monotonic()
        while self._held and (oldest := next(iter(self._held.items())))[1] < now:
            del self._held[oldest[0]]
        self._ask([_Waiter(key, lease_seconds, on_values, now) for key in keys])

    def give_up(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of the keys that are claimed. From now on they are not."""
        return [key for key in keys if self._held.pop(key, None) is not None] if self._held else []

    def _ask(self, waiters: list[_Waiter]) -> None:
        # Claimed first and looked at after: what was put before the claim is seen, and nobody computes it again.
        claims = b"".join([claim(waiter.key, waiter.lease_seconds) for waiter in waiters])
        values = mget([waiter.key for waiter in waiters])
        self._lookups.ask(claims + values, len(waiters) + 1, partial(self._answered, waiters), rows=0)

    def _answered(self, waiters: list[_Waiter], replies: list[Any] | None) -> None:
        now = time.monotonic()
        needless = []
        settled: dict[OnValues, list[tuple[bytes, bytes | None]]] = defaultdict(list)
        unknown = [None] * len(waiters)
        claims, values = (unknown, unknown) if replies is None else (replies, replies[-1])
        for waiter, claimed, value in zip(waiters, claims, values, strict=False):
            if value is not None:
                metrics.CACHE_CLAIMS_SHARED.inc()
                if claimed == b"OK":
                    needless.append(waiter.key)
            elif claimed == b"OK":
                metrics.CACHE_CLAIMS_OWN.inc()
                self._held[waiter.key] = now + waiter.lease_seconds
            elif replies is not None and claimed is None and waiter.may_wait(now):
                self._waiting.append(waiter)
                continue
            else:  # Redis failed, or takes no claims as it is full or read-only, or two leases are over
                metrics.CACHE_CLAIMS_NONE.inc()
            settled[waiter.on_values].append((waiter.key, value))
        if needless:
            self._release(needless)
        for on_values, pairs in settled.items():
            on_values(pairs)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            seconds = min(waiter.ask_at for waiter in self._waiting) - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(seconds, 0), self._ask_again)

    def _ask_again(self) -> None:
        # Who would ask a moment later asks with the others.
        until = time.monotonic() + _POLL_SECONDS
        due = [waiter for waiter in self._waiting if waiter.ask_at <= until]
        self._waiting = [waiter for waiter in self._waiting if waiter.ask_at > until]
        self._timer = None
        if due:
            self._ask(due)
        self._set_timer()
