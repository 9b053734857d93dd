"""The story of one prediction: cache, coalesce, batch, log."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt

from api import metrics
from api.answers import Answer
from api.batching import Batcher
from api.cache.keys import KeySpace
from api.cache.local import LocalCache
from api.cache.sealed import seal, unseal
from api.cache.shared import SharedCache
from api.errors import DeadlineExceeded, ServingError
from api.prediction_log import PredictionLog, Record, pack, uuid7
from api.rows import Row, RowDecoder


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


class Caller(NamedTuple):
    """Who asks, since when, until when."""

    request_id: str
    """For the log: the client's own, or nginx's."""

    unix_ms: int
    """When nginx took the request. With the seed it makes the rows' ids, so that a second attempt on another
    replica, after the first died between commit and reply, makes the same row and not one more."""

    seed: bytes
    """nginx's own id of the request."""

    deadline: float
    """On the monotonic clock, seconds."""


class Prediction(NamedTuple):
    """One row, answered and logged."""

    id: UUID
    answer: Answer
    cache: str
    """local, redis, coalesced or miss."""

    @property
    def cached(self) -> bool:
        return self.cache in ("local", "redis")


class Flight:
    """A row that is not in the worker's memory, on its way through Redis and the model. Equal rows share one."""

    __slots__ = ("_done", "answer", "cache", "error", "key", "looked_up", "ran", "row", "served", "started", "waiters")

    def __init__(self, served: Served, key: bytes, row: bytes) -> None:
        self.served = served
        self.key = key
        self.row = row
        self.waiters = 0
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.cache = "miss"
        # On the monotonic clock: Redis replied, the model began, the model was done. 0 where a flight did not pass.
        self.looked_up = self.started = self.ran = 0.0
        self._done = asyncio.get_running_loop().create_future()

    @property
    def done(self) -> asyncio.Future[None]:
        """Resolves when `answer` or `error` is there. Never raises: a flight whose waiters left warns nobody."""
        return self._done

    @property
    def is_abandoned(self) -> bool:
        return self.waiters == 0

    def arrive(self, answer: Answer, cache: str) -> None:
        self.answer = answer
        self.cache = cache
        if not self._done.done():
            self._done.set_result(None)

    def land(self, output: npt.NDArray[np.float32], *, started: float, finished: float) -> None:
        self.started = started
        self.ran = finished
        self.arrive(self.served.reader.answer(output), "miss")

    def fail(self, error: Exception) -> None:
        self.error = error
        if not self._done.done():
            self._done.set_result(None)


class Predictor:
    """Answers rows. One in each worker, for all its models."""

    def __init__(self, *, local: LocalCache[Answer], shared: SharedCache, log: PredictionLog) -> None:
        self._local = local
        self._shared = shared
        self._log = log
        self._flights: dict[bytes, Flight] = {}
        self._boarding: list[Flight] = []
        self._flying: set[asyncio.Task[None]] = set()

    async def predict(self, served: Served, rows: Sequence[Row], caller: Caller) -> list[Prediction]:
        """One prediction a row, in order. Returns once all of them are durable in the log.

        Raises:
            Overloaded: too many rows wait already.
            DeadlineExceeded: no answer by `caller.deadline`.
            ModelFailed: the model failed on a row.
            LogUnavailable: the answers could not be made durable.
        """
        begun = time.monotonic()
        found = [self._find(served, row) for row in rows]
        if flights := [one for one in found if isinstance(one, Flight)]:
            await self._wait(flights, caller.deadline)
            _observe_stages(flights[-1], begun)
        predictions = [
            self._prediction(one, index, caller, served) for index, one in enumerate(found)
        ]
        await self._make_durable(served, rows, predictions, caller)
        return predictions
