"""The second tier against a real Redis: a broken one costs time, never an answer, and not for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import Counter
from redis.asyncio import Redis

from api import metrics
from api.cache.breaker import Breaker
from api.cache.shared import SharedCache, connect
from tests.servers import Redis as RedisServer
from tests.servers import eventually_async as eventually

KEYS = [b"shoal:test:1:a", b"shoal:test:1:b", b"shoal:test:1:c"]


@asynccontextmanager
async def opened(url: str, *, open_seconds: float = 0.2) -> AsyncIterator[SharedCache]:
    cache = SharedCache(
        connect(url, password=None, budget_seconds=0.5),
        ttl_seconds=60,
        budget_seconds=0.5,
        breaker=Breaker(max_failures=2, open_seconds=open_seconds),
    )
    try:
        yield cache
    finally:
        await cache.close()


def value(counter: Counter) -> float:
    return float(counter._value.get())


async def test_what_was_put_is_found_by_another_worker(redis: RedisServer) -> None:
    async with opened(redis.url) as one, opened(redis.url) as other:
        one.put_many({KEYS[0]: b"x", KEYS[2]: b"\x00\xff"})

        async def found() -> bool:
            return await other.get_many(KEYS) == [b"x", None, b"\x00\xff"]

        await eventually(found)


async def test_answers_expire(redis: RedisServer) -> None:
    async with opened(redis.url) as cache, Redis.from_url(redis.url) as client:
        cache.put_many({KEYS[0]: b"x"})

        async def expires() -> bool:
            return 0 < await client.ttl(KEYS[0]) <= 60

        await eventually(expires)


async def test_a_hundred_callers_at_once_are_all_served(redis: RedisServer) -> None:
    """redis-py's own pool refuses the caller for whom no connection is left."""
    async with opened(redis.url) as cache:
        cache.put_many({KEYS[0]: b"x"})

        async def found() -> bool:
            return await cache.get_many(KEYS[:1]) == [b"x"]

        await eventually(found)
        answers = await asyncio.gather(*(cache.get_many(KEYS) for _ in range(100)))

    assert answers == [[b"x", None, None]] * 100


async def test_values_of_another_type_are_misses(redis: RedisServer) -> None:
    async with opened(redis.url) as cache, Redis.from_url(redis.url) as client:
        await client.lpush(KEYS[0], "not ours")

        assert await cache.get_many(KEYS) == [None, None, None]
        assert cache.is_up


async def test_a_stopped_redis_is_a_miss_then_left_alone_and_found_again(
    redis_server: Callable[[], RedisServer],
) -> None:
    server = redis_server()
    async with opened(server.url) as cache:
        assert await cache.ping()
        server.stop()

        for _ in range(2):
            assert await cache.get_many(KEYS) is None
        assert not cache.is_up
        skipped = value(metrics.CACHE_SKIPPED)
        assert await cache.get_many(KEYS) is None
        assert value(metrics.CACHE_SKIPPED) == skipped + len(KEYS)

        server.start()
        await eventually(cache.ping)
        assert cache.is_up


async def test_a_silent_redis_costs_no_more_than_the_budget(redis_server: Callable[[], RedisServer]) -> None:
    server = redis_server()
    async with opened(server.url) as cache:
        assert await cache.ping()
        server.pause()
        try:
            async with asyncio.timeout(3):  # two budgets of 0.5 s, and room for a busy machine
                assert await cache.get_many(KEYS) is None
                assert await cache.get_many(KEYS) is None
            assert not cache.is_up
        finally:
            server.resume()
        await eventually(cache.ping)


async def test_a_full_redis_still_answers_what_it_has(redis_server: Callable[[], RedisServer]) -> None:
    server = redis_server()
    async with opened(server.url) as cache, Redis.from_url(server.url) as client:
        await client.set(KEYS[0], b"x")
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", "1")
        refused = value(metrics.CACHE_WRITE_FAILURES)

        cache.put_many({KEYS[1]: b"y"})

        async def counted() -> bool:
            return value(metrics.CACHE_WRITE_FAILURES) == refused + 1

        await eventually(counted)
        assert await cache.get_many(KEYS) == [b"x", None, None]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "unix:///nowhere/redis.sock"])
async def test_a_redis_that_never_was_is_a_miss(url: str) -> None:
    async with opened(url) as cache:
        assert await cache.get_many(KEYS) is None
        cache.put_many({KEYS[0]: b"x"})
        assert not await cache.ping()
