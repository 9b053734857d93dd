"""Rows on their way to their answers, those who wait for them, and the model versions that give them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from prometheus_client import Gauge

from api.answers import Answer
from api.batching import Batcher
from api.cache.keys import KeySpace
from api.circuits import Circuit
from api.rows import RowDecoder
from api.tallies import CounterTally, HistogramTally


class AnswerReader(Protocol):
    """Reads a model's outputs; see answers.py."""

    def answers(self, outputs: npt.NDArray[np.float32]) -> list[Answer]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A model version with everything that answering takes."""

    model: str
    version: str
    keys: KeySpace
    decoder: RowDecoder
    reader: AnswerReader
    output_width: int
    batcher: Batcher[Flight]
    lease_seconds: float | None
    """How long a worker may keep a row to itself that others miss too; None: the model is too cheap to be claimed."""
    members: bytes
    """Model and version as members of a JSON object, for the reply."""
    packed: bytes
    """The same for the log; see record.pack_model."""
    counts: Mapping[str, CounterTally]
    """Of rows answered, by what became of the cache."""
    seconds: HistogramTally
    queued_rows: Gauge
    circuit: Circuit
    quarantined: Gauge


class Flight:
    """A row that is not in the worker's memory, on its way through Redis and the model. Equal rows share one."""

    __slots__ = (
        "_listed", "_on_lost", "answer", "key", "looked_up", "ran", "row", "served", "started", "tier", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        served: Served,
        key: bytes,
        row: bytes,
        *,
        listed: dict[bytes, Flight],
        on_lost: Callable[[Sequence[bytes]], None],
    ) -> None:
        """
        Args:
            listed: where equal rows find it, from now until it has landed or nobody waits for it.
            on_lost: told its key when it ends without an answer.
        """
        self.served = served
        self.key = key
        self.row = row
        self.waiting: list[Landing] = []
        self.answer: Answer | None = None
        self.tier = "miss"
        # On the monotonic clock: Redis replied, the model began, the model was done. 0: the flight did not pass there.
        self.looked_up = self.started = self.ran = 0.0
        self._listed = listed
        self._on_lost = on_lost
        listed[key] = self

    @property
    def is_abandoned(self) -> bool:
        return not self.waiting

    def land(self, answer: Answer) -> None:
        self.answer = answer
        for landing in self._end():
            landing.one_landed()

    def fail(self, error: Exception) -> None:
        for landing in self._end():
            landing.one_failed(error)
        self._on_lost((self.key,))

    def leave(self, landing: Landing) -> None:
        """One wait less. Without any, the row need not be computed, so that nobody may join any more."""
        if landing in self.waiting:
            self.waiting.remove(landing)
            if not self.waiting:
                self._end()
                self._on_lost((self.key,))

    def _end(self) -> list[Landing]:
        if self._listed.get(self.key) is self:
            del self._listed[self.key]
        waiting, self.waiting = self.waiting, []
        return waiting


class Landing:
    """One caller's wait for all its flights."""

    __slots__ = ("_flights", "_missing", "done")

    def __init__(self, flights: Sequence[Flight], done: asyncio.Future[None]) -> None:
        """done: of the event loop, pending."""
        self._flights = flights
        self._missing = len(flights)
        self.done = done
        """Resolves when all have landed; raises, as soon as one has failed, what that failed with."""
        for flight in flights:
            flight.waiting.append(self)

    @property
    def last(self) -> Flight:
        return self._flights[-1]

    def one_landed(self) -> None:
        self._missing -= 1
        if self._missing == 0 and not self.done.done():
            self.done.set_result(None)

    def one_failed(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def leave(self) -> None:
        for flight in self._flights:
            flight.leave(self)
