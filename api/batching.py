"""Runs rows together: at once while the model is idle, gathered while it is busy. Knows neither HTTP nor torch."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from api import metrics
from api.errors import ModelFailed, Overloaded

logger = logging.getLogger(__name__)

Rows = npt.NDArray[np.float32]
Outputs = npt.NDArray[np.float32]


class Item(Protocol):
    """A row that waits for its output. Exactly one of `land` and `fail` is called, unless nobody waits any more."""

    row: bytes

    @property
    def is_abandoned(self) -> bool: ...

    def land(self, output: Outputs, *, started: float, finished: float) -> None: ...

    def fail(self, error: Exception) -> None: ...


class Batcher:
    """The queue of one model version, and the one who runs it.

    There is no waiting for company: when the model is idle a row runs at once, and while it runs the next batch
    gathers by itself. So batches grow with load and cost nothing without it.
    Source: https://github.com/huggingface/text-embeddings-inference, core/src/queue.rs.
    """

    def __init__(
        self,
        run: Callable[[Rows], Outputs],
        *,
        model: str,
        version: str,
        row_shape: Sequence[int],
        max_batch_rows: int,
        max_queued_rows: int,
        max_wait_seconds: float,
        executor: Executor | None,
    ) -> None:
        """
        Args:
            run: float32 (rows, *row_shape) to float32 (rows, outputs). Called by one at a time.
            max_wait_seconds: rows that would wait longer than this for their run are refused.
            executor: where `run` is called; None calls it on the event loop, for models cheaper than a thread hop.
        """
        self._run = run
        self._name = f"{model}/{version}"
        self._row_shape = tuple(row_shape)
        self._max_batch_rows = max_batch_rows
        self._max_queued_rows = max_queued_rows
        self._max_wait_seconds = max_wait_seconds
        self._executor = executor
        self._queue: deque[Item] = deque()
        self._busy = False
        self._row_seconds = 0.0  # of a run, smoothed; what the admission reckons with
        self._batch_rows = metrics.BATCH_ROWS.labels(model, version)
        self._run_seconds = metrics.MODEL_RUN_SECONDS.labels(model, version)
        self._queued_rows = metrics.QUEUED_ROWS.labels(model, version)
        self._failures = metrics.MODEL_FAILURES.labels(model, version)

    def check_room(self, rows: int) -> None:
        """Raises Overloaded when so many more rows cannot be taken now, before anything is done for them."""
        if rows > self._room():
            raise self._overloaded()

    async def submit(self, items: Sequence[Item]) -> None:
        """Sees to it that every item lands or fails.

        Whoever finds the model idle runs batches until the queue is empty, its own and those that came meanwhile;
        the others return at once. Rows beyond the queue's limits fail with Overloaded, the rest are taken.
        """
        self._admit(items)
        if self._busy:
            return
        self._busy = True
        try:
            while batch := self._cut():
                await self._run_batch(batch)
                if self._queue:
                    await asyncio.sleep(0)  # a run on the event loop must not keep it from everybody else
        except BaseException as error:
            # The runner was cancelled: the process is stopping. Nobody must wait for a run that will not come.
            while self._queue:
                self._queue.popleft().fail(ModelFailed(f"{self._name} was stopped: {type(error).__name__}"))
            raise
        finally:
            self._busy = False

    def _admit(self, items: Sequence[Item]) -> None:
        room = self._room()
        self._queue.extend(items[:room])
        self._queued_rows.set(len(self._queue))
        for item in items[room:]:
            item.fail(self._overloaded())

    def _room(self) -> int:
        room = self._max_queued_rows
        if self._row_seconds:
            # One batch is always taken: what a row cost by itself says little about what it costs among others.
            room = min(room, max(math.ceil(self._max_wait_seconds / self._row_seconds), self._max_batch_rows))
        return max(room - len(self._queue), 0)

    def _overloaded(self) -> Overloaded:
        seconds = math.ceil(len(self._queue) * self._row_seconds)
        return Overloaded(
            f"{len(self._queue)} rows wait for {self._name} already, which takes about {seconds} s",
            retry_after_seconds=max(1, seconds),
        )

    def _cut(self) -> list[Item]:
        """The next batch, without those who left."""
        batch: list[Item] = []
        while self._queue and len(batch) < self._max_batch_rows:
            item = self._queue.popleft()
            if not item.is_abandoned:
                batch.append(item)
        self._queued_rows.set(len(self._queue))
        return batch

    async def _run_batch(self, batch: list[Item]) -> None:
        started = time.monotonic()
        try:
            outputs = await self._call(batch)
        except Exception as error:  # whatever a model may raise
            self._failures.inc()
            if len(batch) == 1:
                logger.warning("%s failed on a row", self._name, exc_info=error)
                batch[0].fail(self._as_failure(error))
            else:
                # One row may have spoilt it for all: each gets one more chance, by itself.
                for item in batch:
                    await self._run_batch([item])
            return
        except BaseException as error:
            for item in batch:
                item.fail(ModelFailed(f"{self._name} was stopped: {type(error).__name__}"))
            raise
        finished = time.monotonic()
        self._batch_rows.observe(len(batch))
        self._run_seconds.observe(finished - started)
        self._row_seconds += ((finished - started) / len(batch) - self._row_seconds) * 0.1
        for item, output in zip(batch, outputs, strict=True):
            try:
                item.land(output, started=started, finished=finished)
            except Exception as error:  # noqa: BLE001  an output that cannot be read is one row's trouble
                item.fail(self._as_failure(error))

    async def _call(self, batch: list[Item]) -> Outputs:
        # bytearray: torch takes only memory that it may write to.
        rows = np.frombuffer(bytearray().join(item.row for item in batch), dtype=np.float32)
        rows = rows.reshape(len(batch), *self._row_shape)
        if self._executor is None:
            outputs = self._run(rows)
        else:
            outputs = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, rows)
        if len(outputs) != len(batch):
            raise ModelFailed(f"{self._name} gave {len(outputs)} outputs for {len(batch)} rows")
        return outputs

    def _as_failure(self, error: Exception) -> ModelFailed:
        if isinstance(error, ModelFailed):
            return error
        failure = ModelFailed(f"{self._name} failed: {type(error).__name__}")
        failure.__cause__ = error
        return failure
