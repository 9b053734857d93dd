"""The story of one prediction: cache, coalesce, batch, log."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt

from api import metrics
from api.answers import Answer
from api.cache.local import LocalCache
from api.cache.sealed import seal, unseal
from api.cache.shared import SharedCache
from api.errors import DeadlineExceeded, ModelFailed
from api.flights import Flight, Served
from api.prediction_log import PredictionLog, Record, pack, uuid7
from api.rows import Row


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
        keys = [served.keys.key(row.canonical) for row in rows]
        kept = [self._local.get(key) for key in keys]
        found = self._find(served, rows, keys, kept)
        if flights := [each for each, _ in found if isinstance(each, Flight)]:
            await self._wait(flights, caller.deadline)
            _observe_flight(flights[-1], begun)
        predictions = [
            _prediction(each, cache, uuid7(caller.unix_ms, caller.seed + index.to_bytes(4, "big")))
            for index, (each, cache) in enumerate(found)
        ]
        await self._make_durable(served, rows, predictions, caller)
        for prediction in predictions:
            served.counts[prediction.cache].inc()
        served.seconds.observe(time.monotonic() - begun)
        return predictions

    async def close(self) -> None:
        """Waits for flights whose callers left. Called after the last request, before what they need is closed."""
        if self._flying:
            await asyncio.wait(self._flying)

    # --- finding ------------------------------------------------------------------------------------------------------
    def _find(
        self, served: Served, rows: Sequence[Row], keys: Sequence[bytes], kept: Sequence[Answer | None]
    ) -> list[tuple[Answer | Flight, str]]:
        """For each row the answer if this worker has it, else the flight that brings it; and which of the two it was.

        Raises Overloaded, before anything is begun for any of them, when the model cannot take those that are new.
        """
        missing = sum(answer is None for answer in kept)
        metrics.CACHE_LOCAL_HITS.inc(len(kept) - missing)
        if not missing:
            return [(answer, "local") for answer in kept if answer is not None]
        metrics.CACHE_LOCAL_MISSES.inc(missing)
        new = {key for key, answer in zip(keys, kept, strict=True) if answer is None and key not in self._flights}
        served.batcher.check_room(len(new))
        return [
            self._flight(served, row, key) if answer is None else (answer, "local")
            for row, key, answer in zip(rows, keys, kept, strict=True)
        ]

    def _flight(self, served: Served, row: Row, key: bytes) -> tuple[Flight, str]:
        """The flight of an equal row, or a new one."""
        flight = self._flights.get(key)
        if flight is not None:
            return flight, "coalesced"
        flight = self._flights[key] = Flight(served, key, row.canonical, self._arrived)
        self._boarding.append(flight)
        if len(self._boarding) == 1:
            # All rows of this turn of the event loop share one trip to Redis, whoever asked.
            asyncio.get_running_loop().call_soon(self._take_off)
        return flight, "own"

    async def _wait(self, flights: list[Flight], deadline: float) -> None:
        """Until all have arrived, or one has failed, whose error is raised. However it ends for its caller, the
        flights are left to the others who wait for them."""
        for flight in flights:
            flight.waiters += 1
        try:
            # Unlike gather, wait cancels nothing when its caller leaves.
            landed, missing = await asyncio.wait(
                {flight.done for flight in flights},
                timeout=deadline - time.monotonic(),
                return_when=asyncio.FIRST_EXCEPTION,
            )
        finally:
            for flight in flights:
                flight.waiters -= 1
                if flight.waiters == 0 and self._flights.get(flight.key) is flight:
                    del self._flights[flight.key]  # the batcher may drop it now, so nobody may join it any more
        for done in landed:
            done.result()
        if missing:
            raise DeadlineExceeded(f"{len(missing)} of {len(flights)} rows were not computed in time")

    # --- flying -------------------------------------------------------------------------------------------------------
    def _take_off(self) -> None:
        flights, self._boarding = self._boarding, []
        task = asyncio.create_task(self._fly(flights), name="flights")
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)

    async def _fly(self, flights: list[Flight]) -> None:
        """Brings every flight to its answer or its error: first Redis, for all at once, then their models."""
        try:
            misses = await self._look_up(flights)
        except BaseException as error:
            # Cancelled: the process is stopping. Nobody may wait for what will not come.
            for flight in flights:
                flight.fail(ModelFailed(f"the answer was lost on its way: {type(error).__name__}"))
            raise
        await asyncio.gather(*(flights[0].served.batcher.submit(flights) for flights in misses))

    async def _look_up(self, flights: list[Flight]) -> list[list[Flight]]:
        """Lets those arrive whose answer Redis has. The others, by model version."""
        found: asyncio.Future[list[bytes | None] | None] = asyncio.get_running_loop().create_future()
        self._shared.get_many(
            [flight.key for flight in flights], lambda values: None if found.done() else found.set_result(values)
        )
        values = await found
        now = time.monotonic()
        misses: dict[int, list[Flight]] = defaultdict(list)
        for flight, value in zip(flights, values or [None] * len(flights), strict=True):
            flight.looked_up = now
            output = None
            if value is not None:
                output = unseal(flight.key, value, flight.served.output_width)
                (metrics.CACHE_CORRUPT if output is None else metrics.CACHE_REDIS_HITS).inc()
            elif values is not None:
                metrics.CACHE_REDIS_MISSES.inc()
            if output is None:
                misses[id(flight.served)].append(flight)
            else:
                flight.arrive(flight.served.reader.answer(output), "redis")
        return list(misses.values())

    def _arrived(self, flight: Flight, computed: npt.NDArray[np.float32] | None) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        if flight.answer is not None:
            self._local.put(flight.key, flight.answer)
            metrics.CACHE_LOCAL_ROWS.set(len(self._local))
        if computed is not None:
            self._shared.put_many([(flight.key, seal(flight.key, computed))])

    # --- logging ------------------------------------------------------------------------------------------------------
    async def _make_durable(
        self, served: Served, rows: Sequence[Row], predictions: list[Prediction], caller: Caller
    ) -> None:
        records = [
            pack(
                Record(
                    id=prediction.id,
                    unix_ms=caller.unix_ms,
                    request_id=caller.request_id,
                    model=served.model,
                    version=served.version,
                    input_data=row.text,
                    prediction=prediction.answer.prediction,
                    label=prediction.answer.label,
                    confidence=prediction.answer.confidence,
                    cache=prediction.cache,
                )
            )
            for row, prediction in zip(rows, predictions, strict=True)
        ]
        begun = time.monotonic()
        try:
            async with asyncio.timeout(caller.deadline - begun):
                await self._log.append(records)
        except TimeoutError as error:
            raise DeadlineExceeded("the answer could not be made durable in time") from error
        metrics.STAGE_LOG.observe(time.monotonic() - begun)


def _prediction(found: Answer | Flight, how: str, id: UUID) -> Prediction:
    if isinstance(found, Answer):
        return Prediction(id, found, how)
    if found.answer is None:
        raise ModelFailed("the flight landed without an answer")  # _wait raised what it failed with
    return Prediction(id, found.answer, found.cache if how == "own" else how)


def _observe_flight(flight: Flight, begun: float) -> None:
    """Splits the wait for a flight into its stages. Who joined one half way waited only for the rest of it."""
    for stage, until in (
        (metrics.STAGE_CACHE, flight.looked_up),
        (metrics.STAGE_QUEUE, flight.started),
        (metrics.STAGE_RUN, flight.ran),
    ):
        if until > begun:
            stage.observe(until - begun)
            begun = until
