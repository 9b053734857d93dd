"""A worker's second tier for tests: opened and closed, and asked with await."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from api.cache.address import Address
from api.cache.breaker import Breaker
from api.cache.shared import SharedCache


@asynccontextmanager
async def opened(
    url: str,
    *,
    password: str | None = None,
    budget_seconds: float = 0.5,
    max_failures: int = 2,
    open_seconds: float = 0.2,
) -> AsyncIterator[SharedCache]:
    cache = SharedCache(
        Address.parse(url, password=password),
        ttl_seconds=60,
        budget_seconds=budget_seconds,
        breaker=Breaker(max_failures=max_failures, open_seconds=open_seconds),
    )
    try:
        yield cache
    finally:
        await cache.close()


async def look_up(cache: SharedCache, keys: Sequence[bytes]) -> list[bytes | None] | None:
    values: asyncio.Future[list[bytes | None] | None] = asyncio.get_running_loop().create_future()
    cache.get_many(keys, values.set_result)  # raises when it is told twice
    async with asyncio.timeout(5):
        return await values


def claim(cache: SharedCache, key: bytes, *, lease_seconds: float = 30) -> asyncio.Future[bytes | None]:
    """The value that another worker put, or None when it is this one that has to compute it."""
    told: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def on_values(pairs: list[tuple[bytes, bytes | None]]) -> None:
        [(told_key, value)] = pairs
        assert told_key == key
        told.set_result(value)  # raises when it is told twice

    cache.claim_many([key], lease_seconds=lease_seconds, on_values=on_values)
    return told
