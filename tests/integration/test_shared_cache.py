"""The second tier against a real Redis: a broken one costs time, never an answer, and not for long."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter

from api import metrics
from api.cache.shared import SharedCache
from tests import shared_cache
from tests.certificate import certify_localhost
from tests.servers import Redis
from tests.servers import eventually_async as eventually
from tests.shared_cache import opened

KEYS = [b"shoal:test:1:a", b"shoal:test:1:b", b"shoal:test:1:c"]
SILENT_SECONDS = 1


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Production runs on uvloop, which reads its sockets and runs its timers in another order."""
    return "asyncio", {"use_uvloop": request.param}


async def look_up(cache: SharedCache, keys: Sequence[bytes] = KEYS) -> list[bytes | None] | None:
    return await shared_cache.look_up(cache, keys)


@contextmanager
def paused(server: Redis) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


def value(counter: Counter) -> float:
    return float(counter._value.get())


# --- what it does -----------------------------------------------------------------------------------------------------
async def test_what_was_put_is_found_by_another_worker(redis: Redis) -> None:
    async with opened(redis.url) as one, opened(redis.url) as other:
        one.put_many([(KEYS[0], b"x"), (KEYS[2], b"\x00\xff\r\n")])

        async def found() -> bool:
            return await look_up(other) == [b"x", None, b"\x00\xff\r\n"]

        await eventually(found)


async def test_answers_expire(redis: Redis) -> None:
    async with opened(redis.url) as cache:
        cache.put_many([(KEYS[0], b"x")])

    with redis.client() as client:
        assert 0 < client.ttl(KEYS[0]) <= 60


async def test_what_was_put_last_is_written_before_it_hangs_up(redis: Redis) -> None:
    pairs = [(b"shoal:test:1:%d" % number, b"x") for number in range(3000)]
    async with opened(redis.url) as cache:
        cache.put_many(pairs[:1000])
        await look_up(cache)
        cache.put_many(pairs[1000:])

    with redis.client() as client:
        assert client.dbsize() == len(pairs)


async def test_each_of_a_hundred_callers_gets_its_own(redis: Redis) -> None:
    with redis.client() as client:
        client.mset({b"%d" % number: b"of %d" % number for number in range(0, 100, 2)})
    async with opened(redis.url) as cache:
        answers = await asyncio.gather(*(look_up(cache, [b"%d" % number]) for number in range(100)))

    assert answers == [[b"of %d" % number] if number % 2 == 0 else [None] for number in range(100)]


async def test_values_of_another_type_are_misses(redis: Redis) -> None:
    with redis.client() as client:
        client.lpush(KEYS[0], "not ours")
        client.hset(KEYS[1].decode(), "not", "ours")
    async with opened(redis.url) as cache:
        assert await look_up(cache) == [None, None, None]
        assert cache.is_up


# --- a Redis that is away ---------------------------------------------------------------------------------------------
async def test_a_stopped_redis_is_a_miss_then_left_alone_and_found_again(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    async with opened(server.url, open_seconds=2) as cache:
        assert await cache.ping()
        server.stop()

        for _ in range(2):
            assert await look_up(cache) is None
        assert not cache.is_up
        skipped = value(metrics.CACHE_SKIPPED)
        assert await look_up(cache) is None
        assert value(metrics.CACHE_SKIPPED) == skipped + len(KEYS)

        server.start()
        await eventually(cache.ping)
        assert cache.is_up
        cache.put_many([(KEYS[0], b"x")])

        async def found() -> bool:
            cache.put_many([(KEYS[0], b"x")])  # the connection for writes is tried again after a while
            return await look_up(cache) == [b"x", None, None]

        await eventually(found)


async def test_a_redis_killed_under_load_answers_every_caller_once(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    async with opened(server.url, max_failures=1000) as cache:
        assert await cache.ping()
        answers: list[list[bytes | None] | None] = []
        asked = 0
        for turn in range(50):
            if turn == 20:
                await eventually(lambda: answers, because="some are answered before it dies")
            for _ in range(20):
                cache.get_many(KEYS, answers.append)
                asked += 1
            if turn == 20:
                server.kill()
            await asyncio.sleep(0)

        await eventually(lambda: len(answers) >= asked)
        assert await look_up(cache) is None
        assert len(answers) == asked
        assert [None] * 3 in answers
        assert None in answers


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "unix:///nowhere/redis.sock", "redis://nowhere.invalid"])
async def test_a_redis_that_never_was_is_a_miss(url: str) -> None:
    async with opened(url) as cache:
        assert await look_up(cache) is None
        cache.put_many([(KEYS[0], b"x")])
        assert not await cache.ping()


async def test_a_server_that_is_no_redis_is_a_miss() -> None:
    async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_http, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with opened(f"redis://127.0.0.1:{port}") as cache:
            assert await look_up(cache) is None
            assert not await cache.ping()
            assert not cache.is_up


# --- a Redis that is silent -------------------------------------------------------------------------------------------
async def test_a_silent_redis_costs_no_more_than_the_budget(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    async with opened(server.url) as cache:
        assert await cache.ping()
        with paused(server):
            async with asyncio.timeout(3):  # two budgets of 0.5 s, and room for a busy machine
                assert await look_up(cache) is None
                assert await look_up(cache) is None
            assert not cache.is_up
        await eventually(cache.ping)


async def test_a_stall_is_one_failure_however_many_it_held_up(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    async with opened(server.url, budget_seconds=0.1) as cache:
        await eventually(cache.ping)
        with paused(server):
            assert await asyncio.gather(*(look_up(cache) for _ in range(10))) == [None] * 10
            assert cache.is_up
        await eventually(cache.ping)


async def test_answers_that_come_too_late_are_nobody_elses(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    with server.client() as client:
        client.mset({KEYS[0]: b"late", KEYS[1]: b"own"})
    async with opened(server.url) as cache:
        assert await look_up(cache, KEYS[:1]) == [b"late"]
        connection = cache._reading._connection
        with paused(server):
            assert await look_up(cache, KEYS[:1]) is None

        assert await look_up(cache, KEYS[1:2]) == [b"own"]
        assert cache._reading._connection is connection


async def test_a_connection_that_stays_silent_is_replaced(redis_server: Callable[[], Redis]) -> None:
    """A host that is gone says nothing, not even that it is gone, for as long as the kernel resends."""
    server = redis_server()
    async with opened(server.url) as cache:
        assert await cache.ping()
        with paused(server):
            assert await look_up(cache) is None
            await eventually(lambda: not cache._reading.is_open, within_seconds=SILENT_SECONDS + 3)
        assert await look_up(cache) == [None, None, None]


async def test_a_loop_that_was_held_up_reads_before_it_gives_up(redis: Redis) -> None:
    """On an overloaded machine the worker is late, not Redis: its answer has been there all the time."""
    loop = asyncio.get_running_loop()
    with redis.client() as client:
        client.set(KEYS[0], b"x")
    async with opened(redis.url, budget_seconds=0.05) as cache:
        await eventually(cache.ping)
        assert cache._reading._connection is not None
        assert cache._reading._connection._transport is not None
        connection = cache._reading._connection._transport.get_extra_info("socket").fileno()
        answers: list[list[bytes | None] | None] = []

        def serve(request: socket.socket) -> None:
            request.recv(1)
            cache.get_many(KEYS, answers.append)
            time.sleep(0.1)  # it is what this test is about
            assert select.select([connection], [], [], 10)[0], "Redis did not answer"

        # As in a worker, what holds up the loop is a request's callback: uvloop runs timers after those, and only
        # then looks for what came meanwhile.
        client_end, request = socket.socketpair()
        with client_end, request:
            loop.add_reader(request, serve, request)
            for number in range(1, 6):
                client_end.send(b"?")
                await eventually(lambda number=number: len(answers) == number)  # type: ignore[misc]
            loop.remove_reader(request)

    assert answers == [[b"x", None, None]] * 5


# --- writes -----------------------------------------------------------------------------------------------------------
async def test_a_full_redis_still_answers_what_it_has(
    redis_server: Callable[[], Redis], caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_server()
    with server.client() as client:
        client.set(KEYS[0], b"x")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
    async with opened(server.url) as cache:
        refused = value(metrics.CACHE_WRITE_FAILURES)
        with caplog.at_level(logging.WARNING):
            for _ in range(10):
                cache.put_many([(KEYS[1], b"y"), (KEYS[2], b"z")])
                assert await look_up(cache) == [b"x", None, None]

            await eventually(lambda: value(metrics.CACHE_WRITE_FAILURES) == refused + 20)
        assert cache.is_up
        assert len(caplog.records) == 1, "a full Redis says so for every answer, and the log must not"
        assert "OOM" in caplog.text


async def test_a_redis_that_reads_no_more_does_not_fill_the_workers_memory(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    async with opened(server.url) as cache:
        cache.put_many([(KEYS[0], b"first")])

        async def taken() -> bool:  # or it would be refused with the others
            return await look_up(cache, KEYS[:1]) == [b"first"]

        await eventually(taken)
        with paused(server):
            refused = value(metrics.CACHE_WRITE_FAILURES)
            for _ in range(200):
                cache.put_many([(KEYS[1], bytes(100_000))])
                await asyncio.sleep(0)
            assert value(metrics.CACHE_WRITE_FAILURES) > refused + 150
            assert cache._writing.unwritten_bytes < 3_000_000

            # Silent for too long, it is given up with all that it owes.
            await eventually(lambda: not cache._writing.is_open, within_seconds=SILENT_SECONDS + 3)
            assert cache._writing.unwritten_bytes == 0
            await eventually(lambda: value(metrics.CACHE_WRITE_FAILURES) == refused + 200)


async def test_writes_that_redis_takes_its_time_for_hold_up_no_lookup(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    with server.client() as client:
        client.set(KEYS[0], b"x")
        client.client_pause(60_000, all=False)  # whoever writes, and with it all that the same connection asks
        async with opened(server.url) as cache:
            cache.put_many([(KEYS[1], b"y")])
            assert await look_up(cache) == [b"x", None, None]
            assert await look_up(cache) == [b"x", None, None]
            client.client_unpause()


# --- ways in ----------------------------------------------------------------------------------------------------------
async def test_a_redis_that_asks_for_a_password_gets_it(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    with server.client() as client:
        client.set(KEYS[0], b"x")
        client.acl_setuser("shoal", enabled=True, passwords=["+their own"], keys=["*"], commands=["+@all"])
        client.config_set("requirepass", "pa ss")
        path = server.url.removeprefix("unix://")

        for url, password in (
            (server.url, "pa ss"),
            (f"unix://:pa%20ss@{path}", None),
            (f"unix://shoal:their%20own@{path}", None),
            (f"unix://shoal@{path}", "their own"),
        ):
            async with opened(url, password=password) as cache:
                assert await look_up(cache) == [b"x", None, None], url

        for password in ("another", None):
            async with opened(server.url, password=password) as cache:
                assert await look_up(cache) is None
                assert not await cache.ping()
                assert not cache.is_up, "an error is no answer"


async def test_it_uses_the_database_of_its_url(redis: Redis) -> None:
    async with opened(f"{redis.url}?db=3") as cache:
        cache.put_many([(KEYS[0], b"x")])

    with redis.client() as client:
        assert client.get(KEYS[0]) is None
        client.select(3)
        assert client.get(KEYS[0]) == b"x"


async def test_it_speaks_tls(redis: Redis, tmp_path: Path) -> None:
    with redis.client() as client:
        client.set(KEYS[0], b"x")
    certificate, key = certify_localhost(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_unix_connection(redis.url.removeprefix("unix://"))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, redis_writer), pump(redis_reader, writer))

    async with await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        async with opened(f"rediss://localhost:{port}?ssl_ca_certs={certificate}") as cache:
            assert await look_up(cache) == [b"x", None, None]
            cache.put_many([(KEYS[1], b"y" * 100_000)])

            async def found() -> bool:
                return await look_up(cache) == [b"x", b"y" * 100_000, None]

            await eventually(found)

        async with opened(f"rediss://localhost:{port}") as cache:  # whose certificate nobody vouches for
            assert await look_up(cache) is None
