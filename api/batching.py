"""Runs rows together: at once while the model is idle, gathered while it is busy. Knows neither HTTP nor torch."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from api import metrics
from api.circuits import Circuit, Lane
from api.errors import ModelFailed, Overloaded
from api.tallies import HistogramTally

logger = logging.getLogger(__name__)

_STANDING_SHARE = 0.1  # of the longest wait, once the queue stands: 0.5 s with a deadline of 10

Outputs = npt.NDArray[np.float32]
S = TypeVar("S")


class Runnable(Protocol[S]):
    """What runs batches; see models/runtime.Program."""

    def stage(self, rows: Sequence[bytes]) -> S:
        """Puts a batch together. On the event loop, also while the one before it runs."""

    def run_staged(self, staged: S) -> Outputs:
        """float32, shape (rows, outputs). Called by one at a time, in the order of staging, for each batch once."""


class Item(Protocol):
    """A row that waits for its output."""

    row: bytes

    @property
    def is_abandoned(self) -> bool: ...

    def fail(self, error: Exception) -> None: ...


I = TypeVar("I", bound=Item)  # noqa: E741


class Ran(NamedTuple):
    """A run that ended well. Seconds on the monotonic clock."""

    outputs: Outputs
    started: float
    finished: float


class Batcher(Generic[I]):
    """The queue of one model version, and the one who runs it.

    There is no waiting for company: when the model is idle a row runs at once, and while it runs the next batch
    gathers by itself. So batches grow with load and cost nothing without it. A batch that is full has nothing to wait
    for: it is put together while the one before it runs, so that the device goes from one to the next.
    Source: https://github.com/huggingface/text-embeddings-inference, core/src/queue.rs.
    """

    def __init__(
        self,
        program: Runnable[Any],
        *,
        on_run: Callable[[list[I], Outputs, float, float], None],
        model: str,
        version: str,
        max_batch_rows: int,
        max_queued_rows: int,
        max_wait_seconds: float,
        executor: Executor | None,
        circuit: Circuit | None = None,
    ) -> None:
        """
        Args:
            on_run: gets each batch, its outputs, and when the run began and ended, seconds on the monotonic clock.
                Every item that was taken comes to it, or fails, or is dropped because nobody waits for it any more.
                When it raises, the items of the batch fail.
            max_wait_seconds: rows that would wait longer than this for their run are refused.
            executor: one thread, in which batches run; None runs them on the event loop, for models cheaper than a
                thread hop.
            circuit: told of each run, and asked before rows are taken; None: nobody minds.
        """
        self._program = program
        self._on_run = on_run
        self.name = f"{model}/{version}"
        self._max_batch_rows = max_batch_rows
        self._max_queued_rows = max_queued_rows
        self._max_wait_seconds = max_wait_seconds
        self._executor = executor
        self._circuit = circuit
        self._lane = Lane.LOOP if executor is None else Lane.THREAD
        self._run_began = 0.0  # of the run that goes on; 0 if none does
        self._queue: deque[I] = deque()
        self._again: deque[I] = deque()  # of batches that failed: each once more, by itself
        self._was_empty = 0.0  # when the queue was seen so; on the monotonic clock
        self._is_next_called = False  # on the event loop, soon
        self._running: dict[asyncio.Future[Ran], list[I]] = {}  # in the executor: the one that runs, and the next one
        self._row_seconds = 0.0  # of a run, smoothed; what the admission reckons with
        self._batch_rows = HistogramTally(metrics.BATCH_ROWS.labels(model, version))
        self._run_seconds = HistogramTally(metrics.MODEL_RUN_SECONDS.labels(model, version))
        self._failures = metrics.MODEL_FAILURES.labels(model, version)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for their run to begin."""
        waiting = len(self._queue) + len(self._again)
        if len(self._running) > 1:
            _, following = self._running.values()
            waiting += len(following)
        return waiting

    @property
    def runs_on_loop(self) -> bool:
        return self._executor is None

    @property
    def run_seconds(self) -> float:
        """For how long the run that goes on has been going on; 0 if none does."""
        began = self._run_began
        return time.monotonic() - began if began else 0.0

    def check_room(self, rows: int) -> None:
        """Before anything is done for so many more rows.

        Raises:
            Overloaded: they cannot be taken now.
            ModelQuarantined: nothing is run at the moment.
        """
        if self._circuit is not None:
            self._circuit.check()
        if rows > self._room():
            raise self._overloaded()

    def submit(self, items: Sequence[I]) -> None:
        """Takes the items, and runs them at once if the model is idle: on the event loop, before this returns.

        Those beyond the queue's limits fail with Overloaded.
        """
        room = self._room()
        self._queue.extend(items[:room])
        for item in items[room:]:
            item.fail(self._overloaded())
        if self._executor is not None:
            self._fill(self._executor)
        elif not self._is_next_called:
            self._run_here()

    async def close(self) -> None:
        """Fails what waits, and returns when nothing runs any more."""
        while item := self._pop():
            item.fail(ModelFailed(f"{self.name} was stopped"))
        while self._running:
            await asyncio.wait(self._running)

    # --- running on the event loop --------------------------------------------------------------------------------
    def _run_here(self) -> None:
        self._is_next_called = False
        batch = self._cut()
        if not batch:
            return
        try:
            ran = self._run(self._program.stage([item.row for item in batch]))
        except Exception as error:  # noqa: BLE001  whatever a model may raise
            self._failed(batch, error)
        else:
            self._succeeded(batch, ran)
        if self._queue or self._again:
            # A run on the event loop must not keep it from everybody else.
            self._is_next_called = True
            asyncio.get_running_loop().call_soon(self._run_here)

    # --- running in the executor ----------------------------------------------------------------------------------
    def _fill(self, executor: Executor) -> None:
        """One batch runs, and one that is full may be next."""
        while not self._running or (len(self._running) == 1 and len(self._queue) >= self._max_batch_rows):
            batch = self._cut()
            if not batch:
                return
            try:
                staged = self._program.stage([item.row for item in batch])
            except Exception as error:  # noqa: BLE001  no memory left, or a device that is gone
                self._failed(batch, error)
                continue
            running = asyncio.get_running_loop().run_in_executor(executor, self._run, staged)
            self._running[running] = batch
            running.add_done_callback(partial(self._ran, executor))

    def _ran(self, executor: Executor, running: asyncio.Future[Ran]) -> None:
        batch = self._running.pop(running)
        try:
            ran = running.result()
        except Exception as error:  # noqa: BLE001  whatever a model may raise
            self._failed(batch, error)
        except asyncio.CancelledError as error:  # the executor was shut down before it came to this batch
            for item in batch:
                item.fail(self._as_failure(error))
        else:
            self._succeeded(batch, ran)
        self._fill(executor)

    # --- what both have in common ---------------------------------------------------------------------------------
    def _run(self, staged: Any) -> Ran:
        self._run_began = started = time.monotonic()
        if self._circuit is not None:
            self._circuit.begin(self._lane)
        try:
            outputs = self._program.run_staged(staged)
        finally:
            self._run_began = 0.0
            if self._circuit is not None:
                self._circuit.end(self._lane)
        return Ran(outputs, started, time.monotonic())

    def _failed(self, batch: list[I], error: Exception) -> None:
        self._failures.inc()
        if len(batch) == 1:
            logger.warning("%s failed on a row", self.name, exc_info=error)
            batch[0].fail(self._as_failure(error))
        else:
            # One row may have spoilt it for all: each gets one more chance, by itself.
            self._again.extend(batch)

    def _succeeded(self, batch: list[I], ran: Ran) -> None:
        outputs, started, finished = ran
        if len(outputs) != len(batch):
            self._failed(batch, ModelFailed(f"{self.name} gave {len(outputs)} outputs for {len(batch)} rows"))
            return
        self._batch_rows.observe(len(batch))
        self._run_seconds.observe(finished - started)
        self._row_seconds += ((finished - started) / len(batch) - self._row_seconds) * 0.1
        try:
            self._on_run(batch, outputs, started, finished)
        except Exception as error:
            logger.exception("outputs of %s cannot be read", self.name)
            for item in batch:
                item.fail(self._as_failure(error))

    # --- the queue ----------------------------------------------------------------------------------------------------
    def _cut(self) -> list[I]:
        """The next batch, without those whom nobody waits for."""
        batch: list[I] = []
        most = 1 if self._again else self._max_batch_rows
        while len(batch) < most and (item := self._pop()):
            if not item.is_abandoned:
                batch.append(item)
        return batch

    def _pop(self) -> I | None:
        if self._again:
            return self._again.popleft()
        return self._queue.popleft() if self._queue else None

    def _room(self) -> int:
        room = self._max_queued_rows
        patience = self._patience_seconds()
        if self._row_seconds:
            # One batch is always taken: what a row cost by itself says little about what it costs among others.
            room = min(room, max(math.ceil(patience / self._row_seconds), self._max_batch_rows))
        return max(room - self.queued_rows, 0)

    def _patience_seconds(self) -> float:
        """How long a row may have to wait. A queue that has not been empty for as long as a row may wait is no burst
        that passes, but more than can be done: from then on waiting longer gains nobody anything, and it is kept short.
        Source: Nichols and Jacobson, Controlling Queue Delay; Maurer, Fail at Scale (both in ACM Queue).
        """
        now = time.monotonic()
        if not self.queued_rows:
            self._was_empty = now
        stands = now - self._was_empty > self._max_wait_seconds
        return self._max_wait_seconds * (_STANDING_SHARE if stands else 1)

    def _overloaded(self) -> Overloaded:
        seconds = math.ceil(self.queued_rows * self._row_seconds)
        return Overloaded(
            f"{self.queued_rows} rows wait for {self.name} already, which takes about {seconds} s",
            retry_after_seconds=max(1, seconds),
        )

    def _as_failure(self, error: BaseException) -> ModelFailed:
        if isinstance(error, ModelFailed):
            return error
        failure = ModelFailed(f"{self.name} failed: {type(error).__name__}")
        failure.__cause__ = error
        return failure
