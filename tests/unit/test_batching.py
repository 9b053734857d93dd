"""Every caller gets its own output or its own error, whoever else is in the batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.batching import Batcher
from api.errors import ModelFailed, Overloaded

Array = npt.NDArray[np.float32]


class Waiter:
    """An item that remembers what became of it."""

    def __init__(self, number: float) -> None:
        self.row = np.array([number], np.float32).tobytes()
        self.is_abandoned = False
        self.output: float | None = None
        self.error: Exception | None = None

    def land(self, output: Array, *, started: float, finished: float) -> None:
        assert self.output is None
        assert self.error is None
        assert started <= finished
        self.output = output.item()

    def fail(self, error: Exception) -> None:
        assert self.output is None
        assert self.error is None
        self.error = error


class GatedModel:
    """Doubles its rows, once it is let; keeps the size of each batch. A row of -1 spoils its batch."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.gate = threading.Event()
        self.batches: list[int] = []

    def run(self, rows: Array) -> Array:
        self.started.set()
        assert self.gate.wait(5)
        self.batches.append(len(rows))
        if (rows == -1).any():
            raise ValueError("spoilt")
        return rows * 2


@pytest.fixture
def gated_model() -> GatedModel:
    return GatedModel()


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def batcher(
    model: GatedModel,
    executor: ThreadPoolExecutor | None = None,
    *,
    max_batch_rows: int = 4,
    max_queued_rows: int = 100,
) -> Batcher:
    return Batcher(
        model.run,
        model="doubler",
        version="1",
        row_shape=[1],
        max_batch_rows=max_batch_rows,
        max_queued_rows=max_queued_rows,
        max_wait_seconds=10,
        executor=executor,
    )


async def started(model: GatedModel) -> None:
    assert await asyncio.to_thread(model.started.wait, 5)


async def test_rows_gather_while_the_model_is_busy(gated_model: GatedModel, thread: ThreadPoolExecutor) -> None:
    batch = batcher(gated_model, thread)
    waiters = [Waiter(n) for n in range(6)]
    first = asyncio.create_task(batch.submit(waiters[:1]))
    await started(gated_model)

    for waiter in waiters[1:]:
        await batch.submit([waiter])  # returns at once: the first one's task runs for all
    gated_model.gate.set()
    await first

    assert [waiter.output for waiter in waiters] == [0, 2, 4, 6, 8, 10]
    assert gated_model.batches == [1, 4, 1]
    batch.check_room(100)  # nothing waits any more


async def test_who_left_is_not_run(gated_model: GatedModel, thread: ThreadPoolExecutor) -> None:
    batch = batcher(gated_model, thread)
    waiters = [Waiter(n) for n in range(4)]
    first = asyncio.create_task(batch.submit(waiters[:1]))
    await started(gated_model)
    await batch.submit(waiters[1:])

    waiters[2].is_abandoned = True
    gated_model.gate.set()
    await first

    assert [waiter.output for waiter in waiters] == [0, 2, None, 6]
    assert gated_model.batches == [1, 2]


async def test_a_poisonous_row_fails_alone(gated_model: GatedModel) -> None:
    gated_model.gate.set()
    waiters = [Waiter(n) for n in (1, -1, 3)]

    await batcher(gated_model).submit(waiters)

    assert [waiter.output for waiter in waiters] == [2, None, 6]
    assert isinstance(waiters[1].error, ModelFailed)
    assert isinstance(waiters[1].error.__cause__, ValueError)
    assert gated_model.batches == [3, 1, 1, 1]


async def test_rows_beyond_the_queue_are_refused_and_say_when_to_come_back(
    gated_model: GatedModel, thread: ThreadPoolExecutor
) -> None:
    batch = batcher(gated_model, thread, max_queued_rows=2)
    running = Waiter(0)
    first = asyncio.create_task(batch.submit([running]))
    await started(gated_model)

    waiters = [Waiter(n) for n in range(1, 5)]
    await batch.submit(waiters)
    gated_model.gate.set()
    await first

    assert [waiter.output for waiter in waiters] == [2, 4, None, None]
    for refused in waiters[2:]:
        assert isinstance(refused.error, Overloaded)
        assert refused.error.retry_after_seconds == 1


async def test_outputs_that_do_not_match_the_rows_are_nobodys_answer() -> None:
    gated_model = GatedModel()
    batch = Batcher(
        lambda rows: rows[:-1],
        model="short",
        version="1",
        row_shape=[1],
        max_batch_rows=8,
        max_queued_rows=8,
        max_wait_seconds=1,
        executor=None,
    )
    waiters = [Waiter(n) for n in range(3)]
    gated_model.gate.set()

    await batch.submit(waiters)

    assert all(isinstance(waiter.error, ModelFailed) for waiter in waiters)


async def test_nobody_waits_for_a_runner_that_was_cancelled(
    gated_model: GatedModel, thread: ThreadPoolExecutor
) -> None:
    batch = batcher(gated_model, thread)
    waiters = [Waiter(n) for n in range(6)]
    first = asyncio.create_task(batch.submit(waiters[:1]))
    await started(gated_model)
    await batch.submit(waiters[1:])

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gated_model.gate.set()

    assert all(isinstance(waiter.error, ModelFailed) for waiter in waiters)
    after = Waiter(7)
    await batch.submit([after])
    assert after.output == 14


@given(arrivals=st.lists(st.lists(st.integers(-1, 50), max_size=9), max_size=9), limit=st.integers(1, 5))
def test_every_caller_gets_its_own_answer_for_any_arrival_order(arrivals: list[list[int]], limit: int) -> None:
    model = GatedModel()
    model.gate.set()

    async def submit_all() -> list[Waiter]:
        batch = batcher(model, max_batch_rows=limit, max_queued_rows=1000)
        waiters = [[Waiter(n) for n in group] for group in arrivals]
        await asyncio.gather(*(batch.submit(group) for group in waiters))
        batch.check_room(100)  # nothing waits any more
        return [waiter for group in waiters for waiter in group]

    waiters = asyncio.run(submit_all())

    for number, waiter in zip([n for group in arrivals for n in group], waiters, strict=True):
        if number == -1:
            assert isinstance(waiter.error, ModelFailed)
        else:
            assert waiter.output == number * 2
