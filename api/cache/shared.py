"""The second tier: Redis, shared by all replicas. A broken Redis is a miss, and costs nothing while it is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from api import metrics
from api.cache.address import Address
from api.cache.breaker import Breaker
from api.cache.claims import Claims, OnValues
from api.cache.commands import PING, mget
from api.cache.connection import Link
from api.cache.lookups import Lookups
from api.cache.writes import Writes

OnLookedUp = Callable[[list[bytes | None] | None], None]

_SILENT_SECONDS = 1  # Redis answers in less than a millisecond, and forks for its snapshot in some ten
_CLOSE_SECONDS = 1


class SharedCache:
    """Values by key, for one event loop, without a coroutine a call: answers come by callback.

    Two connections a worker, one for lookups and one for answers, opened when there is something to say. A lookup
    takes as long as its budget at most and never raises; a write returns at once.
    """

    def __init__(self, address: Address, *, ttl_seconds: int, budget_seconds: float, breaker: Breaker) -> None:
        """Nothing is connected yet. breaker: of lookups; while it is open nothing is written either."""
        self._reading = Link(address, silent_seconds=_SILENT_SECONDS)
        self._writing = Link(address, silent_seconds=_SILENT_SECONDS)
        self._lookups = Lookups(self._reading, budget_seconds=budget_seconds, breaker=breaker)
        self._claims = Claims(self._lookups, self._release)
        self._writes = Writes(
            self._writing, ttl_seconds=ttl_seconds, breaker=Breaker(max_failures=1, open_seconds=_SILENT_SECONDS)
        )

    @property
    def is_up(self) -> bool:
        return self._lookups.is_up

    def get_many(self, keys: Sequence[bytes], on_values: OnLookedUp) -> None:
        """One MGET for all keys, so whoever asks gathers those of one turn of the event loop.

        Args:
            keys: at least one.
            on_values: called once, within the budget: the values in the order of the keys, or None where Redis
                failed, was not done in time, or was not asked (then before this returns).
        """
        self._lookups.ask(
            mget(keys), 1, lambda replies: on_values(None if replies is None else replies[0]), rows=len(keys)
        )

    def put_many(self, values: Sequence[tuple[bytes, bytes]]) -> None:
        """Keys and their values. What is put in one turn of the event loop leaves in one write. The claim of a key
        goes with it."""
        claimed = self._claims.give_up(key for key, _ in values)
        if self.is_up:
            self._writes.put_many(values, claimed)
        else:
            metrics.CACHE_WRITE_FAILURES.inc(len(values))

    def claim_many(self, keys: Sequence[bytes], *, lease_seconds: float, on_values: OnValues) -> None:
        """Single flight over all replicas, for rows that get_many did not find: one worker is told to compute a row,
        the others get its answer.

        Args:
            keys: at least one.
            lease_seconds: after which a claim is free again, should its holder die: several times as long as the row
                takes.
            on_values: called with keys and their values, for each key once, for those together that are settled
                together. With its value: another worker has put it. With None: compute it, because the claim is ours
                now, until put_many or release of this key; or because Redis failed, or the others took longer than
                two leases.
        """
        self._claims.claim_many(keys, lease_seconds=lease_seconds, on_values=on_values)

    def release(self, keys: Sequence[bytes]) -> None:
        """Gives back the claims of rows that will not be put: one of those who wait takes over."""
        if claimed := self._claims.give_up(keys):
            self._release(claimed)

    def _release(self, claimed: Sequence[bytes]) -> None:
        if self.is_up:
            self._writes.put_many((), claimed)

    async def ping(self) -> bool:
        """Whether Redis answers within the budget. For health checks; moves the breaker like a lookup."""
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def on_replies(replies: list[object] | None) -> None:
            if not answered.done():  # whoever asked may have left
                answered.set_result(replies is not None)

        self._lookups.ask(PING, 1, on_replies, rows=0)
        return await answered

    async def close(self) -> None:
        """Hangs up, once Redis has taken what was put, if it does so in time."""
        self._writes.flush()
        await self._writing.close(within_seconds=_CLOSE_SECONDS)
        await self._reading.close(within_seconds=0)
