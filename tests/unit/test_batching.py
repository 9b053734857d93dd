"""Every caller gets its own output or its own error, whoever else is in the batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
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
        self.settled = asyncio.Event()

    def land(self, output: float) -> None:
        assert not self.settled.is_set()
        self.output = output
        self.settled.set()

    def fail(self, error: Exception) -> None:
        assert not self.settled.is_set()
        self.error = error
        self.settled.set()


def land(waiters: list[Waiter], outputs: Array, started: float, finished: float) -> None:
    assert started <= finished
    for waiter, output in zip(waiters, outputs, strict=True):
        waiter.land(output.item())


async def settle(waiters: list[Waiter]) -> None:
    """Until each has its answer or its error."""
    async with asyncio.timeout(5):
        for waiter in waiters:
            await waiter.settled.wait()


class Model:
    """Stages rows of one number as an array."""

    def __init__(self, run: Callable[[Array], Array]) -> None:
        self.run_staged = run

    def stage(self, rows: Sequence[bytes]) -> Array:
        return np.frombuffer(b"".join(rows), np.float32).reshape(-1, 1)


class GatedModel(Model):
    """Doubles its rows, once it is let; keeps the size of each batch. A row of -1 spoils its batch, one of -2 does so
    before it runs."""

    def __init__(self) -> None:
        super().__init__(self.run)
        self.started = threading.Event()
        self.gate = threading.Event()
        self.batches: list[int] = []
        self.staged: list[int] = []

    def stage(self, rows: Sequence[bytes]) -> Array:
        staged = super().stage(rows)
        if (staged == -2).any():
            raise MemoryError
        self.staged.append(len(staged))
        return staged

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
) -> Batcher[Waiter]:
    return Batcher(
        model,
        on_run=land,
        model="doubler",
        version="1",
        max_batch_rows=max_batch_rows,
        max_queued_rows=max_queued_rows,
        max_wait_seconds=10,
        executor=executor,
    )


def doubler(run: Callable[[Array], Array], on_run: Callable[..., None]) -> Batcher[Waiter]:
    return Batcher(
        Model(run),
        on_run=on_run,
        model="doubler",
        version="1",
        max_batch_rows=8,
        max_queued_rows=8,
        max_wait_seconds=1,
        executor=None,
    )


async def started(model: GatedModel) -> None:
    assert await asyncio.to_thread(model.started.wait, 5)


async def test_rows_gather_while_the_model_is_busy(gated_model: GatedModel, thread: ThreadPoolExecutor) -> None:
    batch = batcher(gated_model, thread)
    waiters = [Waiter(n) for n in range(6)]
    for waiter in waiters:
        batch.submit([waiter])
    await started(gated_model)
    assert batch.queued_rows == 5

    gated_model.gate.set()
    await settle(waiters)

    assert [waiter.output for waiter in waiters] == [0, 2, 4, 6, 8, 10]
    assert gated_model.batches == [1, 4, 1]
    assert batch.queued_rows == 0


async def test_a_full_batch_is_put_together_while_the_model_is_busy(
    gated_model: GatedModel, thread: ThreadPoolExecutor
) -> None:
    batch = batcher(gated_model, thread)
    waiters = [Waiter(n) for n in range(13)]
    batch.submit(waiters[:1])
    await started(gated_model)

    batch.submit(waiters[1:4])
    assert gated_model.staged == [1]  # three may become four
    batch.submit(waiters[4:])
    assert gated_model.staged == [1, 4]  # and no third one: who leaves meanwhile need not be run
    assert batch.queued_rows == 12
    gated_model.gate.set()
    await settle(waiters)

    assert [waiter.output for waiter in waiters] == [2 * n for n in range(13)]
    assert gated_model.batches == [1, 4, 4, 4]


@pytest.mark.parametrize("inline", [True, False])
async def test_a_row_that_cannot_be_staged_fails_alone(
    gated_model: GatedModel, thread: ThreadPoolExecutor, inline: bool
) -> None:
    gated_model.gate.set()
    waiters = [Waiter(n) for n in (1, -2, 3)]

    batcher(gated_model, None if inline else thread).submit(waiters)
    await settle(waiters)

    assert [waiter.output for waiter in waiters] == [2, None, 6]
    assert isinstance(waiters[1].error, ModelFailed)


async def test_an_idle_model_runs_on_the_event_loop_at_once(gated_model: GatedModel) -> None:
    gated_model.gate.set()
    waiter = Waiter(4)

    batcher(gated_model).submit([waiter])

    assert waiter.output == 8


async def test_who_left_is_not_run(gated_model: GatedModel, thread: ThreadPoolExecutor) -> None:
    batch = batcher(gated_model, thread)
    waiters = [Waiter(n) for n in range(4)]
    batch.submit(waiters[:1])
    await started(gated_model)
    batch.submit(waiters[1:])

    waiters[2].is_abandoned = True
    gated_model.gate.set()
    await settle([waiters[0], waiters[1], waiters[3]])

    assert [waiter.output for waiter in waiters] == [0, 2, None, 6]
    assert gated_model.batches == [1, 2]


@pytest.mark.parametrize("inline", [True, False])
async def test_a_poisonous_row_fails_alone(gated_model: GatedModel, thread: ThreadPoolExecutor, inline: bool) -> None:
    gated_model.gate.set()
    waiters = [Waiter(n) for n in (1, -1, 3)]

    batcher(gated_model, None if inline else thread).submit(waiters)
    await settle(waiters)

    assert [waiter.output for waiter in waiters] == [2, None, 6]
    assert isinstance(waiters[1].error, ModelFailed)
    assert isinstance(waiters[1].error.__cause__, ValueError)
    assert gated_model.batches == [3, 1, 1, 1]


async def test_rows_beyond_the_queue_are_refused_and_say_when_to_come_back(
    gated_model: GatedModel, thread: ThreadPoolExecutor
) -> None:
    batch = batcher(gated_model, thread, max_queued_rows=2)
    running = Waiter(0)
    batch.submit([running])
    await started(gated_model)

    waiters = [Waiter(n) for n in range(1, 5)]
    batch.submit(waiters)
    gated_model.gate.set()
    await settle(waiters)

    assert [waiter.output for waiter in waiters] == [2, 4, None, None]
    for refused in waiters[2:]:
        assert isinstance(refused.error, Overloaded)
        assert refused.error.retry_after_seconds == 1


class Clock:
    """Stands still but while the model runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("api.batching.time", SimpleNamespace(monotonic=lambda: self.now))

    def batcher(self, run_seconds: float) -> Batcher[Waiter]:
        """Takes 10 s of rows, and runs them one by one."""

        def run(rows: Array) -> Array:
            self.now += run_seconds
            return rows * 2

        return Batcher(
            Model(run),
            on_run=land,
            model="doubler",
            version="1",
            max_batch_rows=1,
            max_queued_rows=1000,
            max_wait_seconds=10,
            executor=None,
        )


def room(batch: Batcher[Waiter]) -> int:
    return next(rows for rows in range(1000, -1, -1) if _takes(batch, rows))


async def test_a_queue_that_stands_is_kept_short_and_a_burst_may_be_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    batch = clock.batcher(run_seconds=0.1)
    for _ in range(200):  # until it knows what a row takes
        batch.submit([Waiter(0)])
    batch._is_next_called = True  # from here on rows wait

    assert room(batch) == pytest.approx(100, abs=1)  # all of the 10 s
    batch.submit([Waiter(0) for _ in range(50)])
    clock.now += 9
    assert room(batch) == pytest.approx(50, abs=1)
    clock.now += 2
    assert room(batch) == 0  # for longer than 10 s somebody has been waiting
    while batch.queued_rows > 4:
        batch._pop()
    assert room(batch) == pytest.approx(6, abs=1)  # of the 10 that take 1 s
    while batch.queued_rows:
        batch._pop()
    assert room(batch) == pytest.approx(100, abs=1)


async def test_the_first_burst_does_not_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Clock(monkeypatch).batcher(run_seconds=1)
    batch._is_next_called = True
    batch.submit([Waiter(0), Waiter(0)])  # it does not know yet what a row takes

    batch._run_here()

    assert room(batch) == pytest.approx(99, abs=1)  # it takes a tenth of what one took: so slowly does it learn


def _takes(batch: Batcher[Waiter], rows: int) -> bool:
    try:
        batch.check_room(rows)
    except Overloaded:
        return False
    return True


async def test_outputs_that_do_not_match_the_rows_are_nobodys_answer() -> None:
    waiters = [Waiter(n) for n in range(3)]

    doubler(lambda rows: rows[:-1], land).submit(waiters)
    await settle(waiters)

    assert all(isinstance(waiter.error, ModelFailed) for waiter in waiters)


async def test_outputs_that_cannot_be_read_fail_their_rows() -> None:
    def unreadable(*_: object) -> None:
        raise LookupError("no such class")

    waiters = [Waiter(n) for n in range(3)]

    doubler(lambda rows: rows * 2, unreadable).submit(waiters)

    for waiter in waiters:
        assert isinstance(waiter.error, ModelFailed)
        assert isinstance(waiter.error.__cause__, LookupError)


async def test_nobody_waits_for_a_batcher_that_is_closed(gated_model: GatedModel, thread: ThreadPoolExecutor) -> None:
    batch = batcher(gated_model, thread)
    waiters = [Waiter(n) for n in range(6)]
    batch.submit(waiters)
    await started(gated_model)

    closing = asyncio.create_task(batch.close())
    await settle(waiters[4:])
    assert not closing.done()  # the model still runs
    gated_model.gate.set()
    await closing

    assert [waiter.output for waiter in waiters[:4]] == [0, 2, 4, 6]
    assert all(isinstance(waiter.error, ModelFailed) for waiter in waiters[4:])


@settings(deadline=None)
@given(
    arrivals=st.lists(st.lists(st.integers(-2, 50), max_size=9), max_size=9),
    leaving=st.sets(st.integers(0, 80)),
    limit=st.integers(1, 5),
    inline=st.booleans(),
)
def test_every_caller_gets_its_own_answer_for_any_arrival_order(
    arrivals: list[list[int]], leaving: set[int], limit: int, inline: bool
) -> None:
    """However they arrive between runs, whoever leaves, and whoever spoils a batch."""
    model = GatedModel()
    model.gate.set()

    async def submit_all() -> tuple[list[tuple[int, Waiter]], int]:
        with ThreadPoolExecutor(1) as thread:
            batch = batcher(model, None if inline else thread, max_batch_rows=limit, max_queued_rows=1000)
            waiters: list[tuple[int, Waiter]] = []
            for group in arrivals:
                arrived = [(n, Waiter(n)) for n in group]
                waiters += arrived
                batch.submit([waiter for _, waiter in arrived])
                for index, (_, waiter) in enumerate(waiters):
                    waiter.is_abandoned |= index in leaving
                await asyncio.sleep(0)  # a turn of the loop, in which a batch may run or not
            await settle([waiter for _, waiter in waiters if not waiter.is_abandoned])
            await batch.close()
            return waiters, batch.queued_rows

    waiters, queued_rows = asyncio.run(submit_all())

    assert queued_rows == 0
    for number, waiter in waiters:
        if waiter.is_abandoned and not waiter.settled.is_set():
            continue
        if number < 0:
            assert isinstance(waiter.error, ModelFailed)
        elif waiter.error is None or not waiter.is_abandoned:
            assert waiter.output == number * 2
