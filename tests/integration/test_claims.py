"""Single flight over replicas against a real Redis: one computes, and whatever becomes of it, nobody waits for ever."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from api.cache.shared import SharedCache
from tests.servers import Redis
from tests.servers import eventually_async as eventually
from tests.shared_cache import claim, look_up, opened

KEY = b"shoal:test:1:a"


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


async def told(answer: asyncio.Future[bytes | None]) -> bytes | None:
    async with asyncio.timeout(5):
        return await answer


async def nobody_claims(redis: Redis) -> None:
    with redis.client() as client:
        await eventually(lambda: client.keys("*:claim") == [])


async def test_one_computes_and_the_others_get_its_answer(redis: Redis) -> None:
    async with opened(redis.url) as one, opened(redis.url) as other:
        assert await told(claim(one, KEY)) is None
        waiting = [claim(other, KEY), claim(one, KEY)]
        assert await look_up(other, [KEY]) == [None]
        assert not any(each.done() for each in waiting)

        one.put_many([(KEY, b"x")])

        assert [await told(each) for each in waiting] == [b"x", b"x"]
        await nobody_claims(redis)


async def test_what_was_put_before_the_claim_is_seen_by_it(redis: Redis) -> None:
    """Between a lookup that missed and the claim, another worker may have finished."""
    with redis.client() as client:
        client.set(KEY, b"x")
    async with opened(redis.url) as cache:
        assert await told(claim(cache, KEY)) == b"x"
        await nobody_claims(redis)


async def test_who_gives_up_lets_another_take_over(redis: Redis) -> None:
    async with opened(redis.url) as one, opened(redis.url) as other, opened(redis.url) as third:
        assert await told(claim(one, KEY)) is None
        waiting = {claim(other, KEY): other, claim(third, KEY): third}

        one.release([KEY])

        [taken], rest = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert taken.result() is None
        waiting[taken].put_many([(KEY, b"x")])
        [left] = rest
        assert await told(left) == b"x"


async def test_who_dies_is_replaced_when_its_lease_has_run_out(redis: Redis) -> None:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(opened(redis.url)) for _ in range(5)]
        async with opened(redis.url) as dying:
            assert await told(claim(dying, KEY, lease_seconds=0.5)) is None
        waiting = {claim(worker, KEY, lease_seconds=5): worker for worker in workers}

        taken, rest = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert [each.result() for each in taken] == [None]
        waiting[taken.pop()].put_many([(KEY, b"x")])
        assert [await told(each) for each in rest] == [b"x"] * 4


async def test_nobody_waits_longer_than_two_leases(redis: Redis) -> None:
    with redis.client() as client:
        client.set(KEY + b":claim", "for ever")
    async with opened(redis.url) as cache:
        begun = time.monotonic()
        assert await told(claim(cache, KEY, lease_seconds=0.2)) is None
        assert 0.4 <= time.monotonic() - begun < 4


async def test_a_redis_that_dies_lets_everybody_compute(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    async with opened(server.url) as one, opened(server.url) as other:
        assert await told(claim(one, KEY)) is None
        waiting = claim(other, KEY)
        assert await look_up(other, [KEY]) == [None]
        server.kill()

        assert await told(waiting) is None
        assert [await told(claim(other, KEY)) for _ in range(5)] == [None] * 5
        assert not other.is_up
        one.release([KEY])


async def test_a_redis_that_falls_silent_lets_everybody_compute(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    async with opened(server.url) as one, opened(server.url) as other:
        assert await told(claim(one, KEY)) is None
        server.pause()
        try:
            assert await told(claim(other, KEY)) is None
        finally:
            server.resume()


async def test_a_redis_that_takes_no_claims_lets_everybody_compute(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
    async with opened(server.url) as one, opened(server.url) as other:
        assert await told(claim(one, KEY)) is None
        assert await told(claim(other, KEY)) is None
        assert other.is_up


async def test_of_many_workers_and_rows_each_row_is_computed_once(redis: Redis) -> None:
    numbers = random.Random(1)
    keys = [b"shoal:test:1:%d" % number for number in range(40)]
    computed: Counter[bytes] = Counter()
    answers: Counter[tuple[bytes, bytes]] = Counter()

    async def compute(worker: SharedCache, key: bytes) -> None:
        computed[key] += 1
        await asyncio.sleep(numbers.uniform(0, 0.02))  # as long as a model's run
        if numbers.random() < 0.2 and computed[key] == 1:
            computed[key] -= 1
            worker.release([key])  # it failed, and its caller asks again
            ask(worker, [key])
        else:
            worker.put_many([(key, b"of " + key)])
            answers[key, b"of " + key] += 1

    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        workers = [await stack.enter_async_context(opened(redis.url)) for _ in range(6)]

        def ask(worker: SharedCache, keys: list[bytes]) -> None:
            def on_values(pairs: list[tuple[bytes, bytes | None]]) -> None:
                for key, value in pairs:
                    if value is None:
                        group.create_task(compute(worker, key))
                    else:
                        answers[key, value] += 1

            worker.claim_many(keys, lease_seconds=30, on_values=on_values)

        for worker in workers:
            mine = numbers.sample(keys, len(keys))
            for first in range(0, len(mine), 10):
                ask(worker, mine[first : first + 10])
        await eventually(lambda: answers.total() >= len(workers) * len(keys))

    assert answers == {(key, b"of " + key): len(workers) for key in keys}
    assert computed == dict.fromkeys(keys, 1)
    await nobody_claims(redis)
