"""Whatever becomes of what Redis holds, every answer is right. The worker's own memory is switched off here."""

from __future__ import annotations

import http.client
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from redis import Redis as Client

from tests.servers import Redis, eventually
from tests.stack import Stack

Row = list[float]
Answer = tuple[object, ...]


@pytest.fixture(scope="module")
def stack(folders: Callable[[], Path]) -> Iterator[Stack]:
    stack = Stack(folders(), replicas=1, SHOAL_CACHE_LOCAL_ROWS="0", SHOAL_REDIS_BUDGET_SECONDS="2")
    try:
        stack.start()
        yield stack
    finally:
        stack.close()


@pytest.fixture(autouse=True)
def empty(stack: Stack) -> None:
    with stack.redis.client() as client:
        client.flushall()


def new_rows(count: int) -> list[Row]:
    numbers = random.Random()
    return [[numbers.uniform(32, 60), numbers.uniform(13, 22), numbers.uniform(170, 232)] for _ in range(count)]


def ask(stack: Stack, rows: list[Row], path: str = "/predict") -> tuple[list[Answer], list[str]]:
    """The answers, and which of the caches each came from."""
    answers, caches = [], []
    with closing(http.client.HTTPConnection("127.0.0.1", stack.nginx.port, timeout=20)) as connection:
        for row in rows:
            body = json.dumps({"features": row})
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            answer: dict[str, Any] = json.loads(reply.read())
            assert reply.status == 200, answer
            caches.append(str(reply.headers["X-Cache"]))
            answers.append(
                tuple(answer.get(name) for name in ("model", "version", "prediction", "label", "confidence"))
            )
    return answers, caches


def stored(redis: Redis, count: int) -> list[bytes]:
    """The keys of that many answers, once all of them are there."""
    with redis.client() as client:
        eventually(lambda: client.dbsize() == count)
        return list(client.keys())


def test_damaged_values_and_those_of_another_type_are_computed_anew(stack: Stack) -> None:
    rows = new_rows(8)
    right, _ = ask(stack, rows)
    keys = stored(stack.redis, len(rows))
    assert ask(stack, rows) == (right, ["redis"] * len(rows))

    with stack.redis.client() as client:
        values = client.mget(keys)
        client.set(keys[0], b"")
        client.set(keys[1], values[1][:-1])
        client.set(keys[2], values[2] + b"\0")
        client.set(keys[3], bytes([values[3][0]]) + bytes([values[3][1] ^ 1]) + values[3][2:])
        client.set(keys[4], values[5])  # right in itself, and the answer to another question
        client.set(keys[5], values[4])
        for key, damage in ((keys[6], client.lpush), (keys[7], client.sadd)):
            client.delete(key)
            damage(key, values[0])

    again, caches = ask(stack, rows)
    assert again == right
    assert caches == ["miss"] * len(rows)
    eventually(lambda: ask(stack, rows) == (right, ["redis"] * len(rows)), because="it mends what was damaged")


def test_models_of_equal_shape_never_share_an_answer(stack: Stack) -> None:
    paths = [
        "/models/penguins/versions/1/predict",
        "/models/penguins/versions/2/predict",
        "/models/penguin-mass/predict",
    ]
    rows = new_rows(5)
    right = {}
    for path in paths:
        right[path], caches = ask(stack, rows, path)
        assert caches == ["miss"] * len(rows)
    stored(stack.redis, len(paths) * len(rows))

    for path in reversed(paths):
        assert ask(stack, rows, path) == (right[path], ["redis"] * len(rows))
    assert len({answer for answers in right.values() for answer in answers}) == len(paths) * len(rows)


def test_answers_stay_right_while_redis_makes_room_for_others(stack: Stack) -> None:
    rows = new_rows(4000)
    with stack.redis.client() as client:
        room = client.info("memory")["used_memory"] + 300_000
    with limited(stack.redis, "allkeys-lfu", room) as client:
        failed = write_failures(stack)
        right, _ = ask_all(stack, rows)
        eventually(lambda: client.info("stats")["evicted_keys"] > 1000)

        again, cached = ask_all(stack, rows)

        assert again == right
        assert True in cached
        assert False in cached
        assert client.info("memory")["used_memory"] < client.info("memory")["maxmemory"] + 200_000
        assert write_failures(stack) == failed


def test_a_redis_that_is_full_for_good_costs_no_request(stack: Stack) -> None:
    rows = new_rows(1000)
    right, _ = ask_all(stack, rows[:500])
    stored(stack.redis, 500)
    with limited(stack.redis, "noeviction", 1):
        failed = write_failures(stack)
        more, cached = ask_all(stack, rows)
        assert cached == [True] * 500 + [False] * 500
        assert more[:500] == right
        assert ask_all(stack, rows) == (more, cached)
        eventually(lambda: write_failures(stack) == failed + 1000, because="each answer that was refused is counted")

    with stack.redis.client() as client:
        client.set(b"room", b"again")
    assert ask_all(stack, rows) == (more, cached)
    eventually(lambda: ask_all(stack, rows) == (more, [True] * 1000))


@contextmanager
def limited(redis: Redis, policy: str, max_bytes: int) -> Iterator[Client]:
    with redis.client() as client:
        kept = client.config_get("maxmemory*")
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", max_bytes)
        try:
            yield client
        finally:
            for name in ("maxmemory", "maxmemory-policy"):
                client.config_set(name, kept[name])


def ask_all(stack: Stack, rows: list[Row]) -> tuple[list[object], list[bool]]:
    """The answers to batches of them, and which were cached."""
    answers: list[object] = []
    cached: list[bool] = []
    with closing(http.client.HTTPConnection("127.0.0.1", stack.nginx.port, timeout=20)) as connection:
        for first in range(0, len(rows), 500):
            body = json.dumps({"instances": rows[first : first + 500]})
            connection.request("POST", "/predict/batch", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            batch = json.loads(reply.read())
            assert reply.status == 200, batch
            for answer in batch["predictions"]:
                cached.append(answer.pop("cached"))
                del answer["id"]
                answers.append(answer)
    return answers, cached


def write_failures(stack: Stack) -> float:
    [replica] = stack.replicas
    with urlopen(f"http://{replica.address}/metrics", timeout=5) as reply:
        [found] = re.findall(rb"^shoal_cache_write_failures_total (.+)$", reply.read(), re.MULTILINE)
    return float(found)
