"""Many callers at once, in any order: some ask the same, some leave, some send a row that the model fails at, and now
and then the model takes longer than anybody waits. Each gets its own answer or its own error, and nothing is left."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from uuid import UUID

import numpy as np
import psycopg
import pytest

from api import lifespan
from api.app import build_app, load_programs
from api.batching import Outputs
from api.lifespan import Programs
from api.models.manifest import TOLERANCES
from api.models.repository import Repository
from api.models.runtime import Program
from api.models.staging import Staging
from api.settings import Settings
from tests.integration.conftest import listening
from tests.integration.test_protocol import Client, Reply, request
from tests.servers import eventually_async as eventually

POISON = -13.0
CALLERS = 60
TOLERANCE = TOLERANCES["float32"] / 10  # of a confidence; so small a model is more exact than is promised


class Model:
    """A program that fails at a poisonous row, and that can be held."""

    def __init__(self, program: Program) -> None:
        self._run_staged = program.run_staged
        self.may_run = threading.Event()
        self.may_run.set()

    def run_staged(self, staged: Staging) -> Outputs:
        assert self.may_run.wait(10)
        is_poisonous = bool((staged.inputs()[:, 0] == POISON).any())
        outputs = self._run_staged(staged)
        if is_poisonous:
            raise ValueError("poison")
        return outputs


class Caller(NamedTuple):
    row: tuple[float, float, float]
    leaves: bool
    """Before its answer."""


def callers(numbers: random.Random) -> list[Caller]:
    common = [_row(numbers) for _ in range(5)]
    drawn = []
    for _ in range(CALLERS):
        row = numbers.choice(common) if numbers.random() < 0.4 else _row(numbers)
        if numbers.random() < 0.1:
            row = (POISON, *row[1:])
        drawn.append(Caller(row, leaves=numbers.random() < 0.2))
    return drawn


def _row(numbers: random.Random) -> tuple[float, float, float]:
    return numbers.uniform(32, 60), numbers.uniform(13, 22), numbers.uniform(170, 232)


@pytest.mark.parametrize("held_seconds", [0, 0.2, 1])
@pytest.mark.parametrize("seed", range(2))
async def test_every_caller_gets_its_own_answer_or_its_own_error(
    seed: int, held_seconds: float, settings: Settings, shipped_models: tuple[Repository, Programs]
) -> None:
    """held_seconds: how long the model is held at most, twice. 0: it runs on the event loop."""
    numbers = random.Random(seed)
    is_held_too_long = held_seconds == 1
    settings = settings.model_copy(
        update={
            "deadline_seconds": 0.4 if is_held_too_long else 10,
            "inline_run_seconds": 0 if held_seconds else 0.1,
            "cache_claim_run_seconds": numbers.choice([0, 1]),
            "max_batch_rows": numbers.choice([1, 4, 64]),
        }
    )
    programs = load_programs(shipped_models[0], "cpu")
    program = programs["penguins", "2"]
    asked = callers(numbers)
    probabilities = program.run(np.array([caller.row for caller in asked], np.float32))
    model = Model(program)
    program.run_staged = model.run_staged  # type: ignore[method-assign]

    async with (
        lifespan.open_replica(settings, shipped_models[0], programs) as state,
        listening(build_app(settings, shipped_models[0], programs), dict(state)) as url,
    ):
        replica = state["replica"]
        held = asyncio.create_task(hold(model, numbers, held_seconds))
        replies = await asyncio.gather(*(ask(url, caller, numbers) for caller in asked))
        await held
        await eventually(lambda: len(replica.in_flight) == 0)
        assert replica.predictor._flights == {}
        batchers = [served.batcher for served in replica.served.values()]
        await eventually(lambda: all(each.queued_rows == 0 and not each._running for each in batchers))
        claims = replica.predictor._shared._claims
        await eventually(lambda: not claims._waiting and not claims._held)

    answered = set()
    for caller, reply, expected in zip(asked, replies, probabilities, strict=True):
        if reply is None:
            assert caller.leaves
        elif reply.status == 200:
            assert caller.row[0] != POISON
            assert reply.body["prediction"] == expected.argmax()
            assert reply.body["confidence"] == pytest.approx(expected.max(), abs=TOLERANCE)
            answered.add(UUID(reply.body["id"]))
        elif reply.status == 500:
            assert caller.row[0] == POISON
        else:
            assert is_held_too_long, reply
            assert reply.status in (429, 504)
    assert answered or is_held_too_long
    statuses = {reply.status for reply in replies if reply is not None}
    assert 504 in statuses or not is_held_too_long
    with psycopg.connect(settings.postgres_dsn) as connection:
        logged = [id for (id,) in connection.execute("SELECT id FROM predictions")]
    assert answered <= set(logged)
    assert len(logged) == len(set(logged)) <= CALLERS


async def hold(model: Model, numbers: random.Random, at_most_seconds: float) -> None:
    """Twice."""
    for _ in range(2 if at_most_seconds else 0):
        await asyncio.sleep(numbers.uniform(0, 0.05))
        model.may_run.clear()
        await asyncio.sleep(numbers.uniform(at_most_seconds / 2, at_most_seconds))
        model.may_run.set()


async def ask(url: str, caller: Caller, numbers: random.Random) -> Reply | None:
    """None for who left."""
    await asyncio.sleep(numbers.uniform(0, 0.3))
    async with connected(url) as client:
        client.send(request(b'{"features":[%r,%r,%r]}' % caller.row))
        if not caller.leaves:
            return await client.reply()
        await asyncio.sleep(numbers.uniform(0, 0.1))
        client.leave()
        return None


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
