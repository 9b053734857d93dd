"""A row on its way to its answer, and the model version that gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from prometheus_client import Counter, Histogram

from api.answers import Answer
from api.batching import Batcher
from api.cache.keys import KeySpace
from api.rows import RowDecoder

Arrival = Callable[["Flight", npt.NDArray[np.float32] | None], None]


class AnswerReader(Protocol):
    """Reads a model's output; see answers.py."""

    def answer(self, output: npt.NDArray[np.float32]) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Served:
    """A model version with everything that answering takes."""

    model: str
    version: str
    keys: KeySpace
    decoder: RowDecoder
    reader: AnswerReader
    output_width: int
    batcher: Batcher
    fields: bytes
    """Model and version as members of a JSON object, for the reply."""
    counts: Mapping[str, Counter]
    """Of rows answered, by what became of the cache."""
    seconds: Histogram


class Flight:
    """A row that is not in the worker's memory, on its way through Redis and the model. Equal rows share one."""

    def __init__(self, served: Served, key: bytes, row: bytes, on_arrival: Arrival) -> None:
        """on_arrival: told once, with the model's output if the model ran, before anybody who waits."""
        self.served = served
        self.key = key
        self.row = row
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Resolves when the flight has landed, and raises what it failed with."""
        self.waiters = 0
        self.answer: Answer | None = None
        self.cache = "miss"
        # On the monotonic clock: Redis replied, the model began, the model was done. 0: the flight did not pass there.
        self.looked_up = self.started = self.ran = 0.0
        self._on_arrival = on_arrival

    @property
    def is_abandoned(self) -> bool:
        return self.waiters == 0

    def arrive(self, answer: Answer, cache: str) -> None:
        self.cache = cache
        self._succeed(answer, None)

    def land(self, output: npt.NDArray[np.float32], *, started: float, finished: float) -> None:
        self.started = started
        self.ran = finished
        self._succeed(self.served.reader.answer(output), output)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self._on_arrival(self, None)
            self.done.set_exception(error)
            self.done.exception()  # looked at: a flight that everybody left warns nobody

    def _succeed(self, answer: Answer, computed: npt.NDArray[np.float32] | None) -> None:
        if not self.done.done():
            self.answer = answer
            self._on_arrival(self, computed)
            self.done.set_result(None)
