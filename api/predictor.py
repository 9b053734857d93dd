"""The story of one prediction: cache, coalesce, batch, log."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import numpy as np

from api import metrics
from api.answers import Answer
from api.batching import Outputs
from api.cache.local import LocalCache
from api.cache.sealed import Output, seal_many, unseal
from api.cache.shared import SharedCache
from api.flights import Flight, Landing, Served
from api.prediction_log import PredictionLog, pack_row, pack_text, uuid7
from api.rows import Row


class Caller(NamedTuple):
    """Who asks, and since when."""

    request_id: str
    """For the log: the client's own, or nginx's."""

    unix_ms: int
    """When nginx took the request. With the seed it makes the rows' ids, so that a second attempt on another
    replica, after the first died between commit and reply, makes the same row and not one more."""

    seed: bytes
    """nginx's own id of the request."""


class Predictions(NamedTuple):
    """The rows of one request, answered and logged."""

    first_id: int
    """Of the first row; the others count up from it. See record.uuid7."""

    answers: Sequence[Answer]

    tiers: Sequence[str]
    """For each row: local, redis, coalesced or miss."""

    @property
    def tier(self) -> str:
        """Of all rows, or `mixed`."""
        return self.tiers[0] if len(set(self.tiers)) == 1 else "mixed"


class Predictor:
    """Answers rows. One in each worker, for all its models.

    Its coroutines wait for plain futures only, so whoever drives them may give up at any of these by throwing an error
    in (protocol.py, at the deadline) or by cancelling: the caller's own rows are then dropped where nobody else waits
    for them, and nobody else notices.
    """

    def __init__(self, *, local: LocalCache[Answer], shared: SharedCache, log: PredictionLog) -> None:
        self._local = local
        self._shared = shared
        self._log = log
        self._loop = asyncio.get_running_loop()  # kept, as Python 3.11 asks the kernel for our pid to find it
        self._flights: dict[bytes, Flight] = {}
        self._boarding: list[Flight] = []

    async def predict(self, served: Served, rows: Sequence[Row], caller: Caller) -> Predictions:
        """Answers in the order of the rows. Returns once all of them are durable in the log.

        Raises:
            Overloaded: too many rows wait already.
            ModelFailed: the model failed on a row.
            LogUnavailable: the answers could not be made durable.
        """
        begun = time.monotonic()
        answers, tiers = await self.answer(served, rows)
        known = time.monotonic()
        first_id = uuid7(caller.unix_ms, caller.seed)
        await self._log.append(
            log_rows(served, rows, answers, tiers, first_id, unix_ms=caller.unix_ms, request_id=caller.request_id)
        )
        durable = time.monotonic()
        metrics.STAGE_LOG.observe(durable - known)
        served.seconds.observe(durable - begun)
        for tier in tiers:
            served.counts[tier].inc()
        return Predictions(first_id, answers, tiers)

    async def answer(self, served: Served, rows: Sequence[Row]) -> tuple[list[Answer], list[str]]:
        """The answers, and the tier that each came from. Not logged: for those who see to that themselves.

        Raises Overloaded and ModelFailed, as `predict` does.
        """
        begun = time.monotonic()
        keys = [served.keys.key(row.canonical) for row in rows]
        kept = [self._local.get(key) for key in keys]
        missing = kept.count(None)
        metrics.CACHE_LOCAL_HITS.inc(len(keys) - missing)
        if missing:
            metrics.CACHE_LOCAL_MISSES.inc(missing)
            return await self._fly(served, rows, keys, kept, begun)
        metrics.STAGE_CACHE.observe(time.monotonic() - begun)
        return cast("list[Answer]", kept), ["local"] * len(keys)

    @property
    def local_rows(self) -> int:
        """Answers in this worker's memory."""
        return len(self._local)

    # --- waiting ------------------------------------------------------------------------------------------------------
    async def _fly(
        self,
        served: Served,
        rows: Sequence[Row],
        keys: Sequence[bytes],
        kept: Sequence[Answer | None],
        begun: float,
    ) -> tuple[list[Answer], list[str]]:
        """The answers, of which those that are not kept come by flights; and where each came from."""
        new = {key for key, answer in zip(keys, kept, strict=True) if answer is None and key not in self._flights}
        served.batcher.check_room(len(new))  # before anything is begun for any of them
        flights = [
            None if answer else self._flights.get(key) or self._board(served, key, row)
            for row, key, answer in zip(rows, keys, kept, strict=True)
        ]
        landing = Landing([flight for flight in flights if flight], self._loop.create_future())
        try:
            await landing.done
        except BaseException:
            landing.leave()
            raise
        answers: list[Answer] = []
        tiers: list[str] = []
        for key, flight, answer in zip(keys, flights, kept, strict=True):
            if flight is None:
                answers.append(cast("Answer", answer))
                tiers.append("local")
            else:
                answers.append(cast("Answer", flight.answer))
                tiers.append(flight.tier if key in new else "coalesced")
                new.discard(key)
        _observe_flight(landing.last, begun)
        return answers, tiers

    def _board(self, served: Served, key: bytes, row: Row) -> Flight:
        flight = Flight(served, key, row.canonical, listed=self._flights, on_lost=self._shared.release)
        self._boarding.append(flight)
        if len(self._boarding) == 1:
            # All rows of this turn of the event loop share one trip to Redis, whoever asked.
            self._loop.call_soon(self._take_off)
        return flight

    # --- flying: first Redis, for all at once, then their models ----------------------------------------------------
    def _take_off(self) -> None:
        flights, self._boarding = self._boarding, []
        self._shared.get_many([flight.key for flight in flights], partial(self._looked_up, flights))

    def _looked_up(self, flights: list[Flight], values: Sequence[bytes | None] | None) -> None:
        """values: what Redis has; None where it could not be asked."""
        misses = self._take_found(zip(flights, values or [None] * len(flights), strict=True), tier="redis")
        if values is not None:
            missed = sum(map(len, misses.values()))
            metrics.CACHE_REDIS_HITS.inc(len(flights) - missed)
            metrics.CACHE_REDIS_MISSES.inc(missed)
        for served, missing in misses.items():
            if values is None or served.lease_seconds is None:
                served.batcher.submit(missing)
                continue
            self._shared.claim_many(
                [flight.key for flight in missing],
                lease_seconds=served.lease_seconds,
                on_values=partial(self._claimed, {flight.key: flight for flight in missing}),
            )

    def _claimed(self, flights: Mapping[bytes, Flight], pairs: Sequence[tuple[bytes, bytes | None]]) -> None:
        """pairs: keys, each with the value that another worker has put meanwhile, or None: it is for us to compute."""
        misses = self._take_found([(flights[key], value) for key, value in pairs], tier="coalesced")
        for served, missing in misses.items():
            self._shared.release([flight.key for flight in missing if flight.is_abandoned])
            served.batcher.submit([flight for flight in missing if not flight.is_abandoned])

    def _take_found(
        self, looked_up: Iterable[tuple[Flight, bytes | None]], *, tier: str
    ) -> Mapping[Served, list[Flight]]:
        """Lands the flights that have a value. Returns the others; their values were damaged, or None."""
        now = time.monotonic()
        found: dict[Served, list[tuple[Flight, Output]]] = defaultdict(list)
        misses: dict[Served, list[Flight]] = defaultdict(list)
        for flight, value in looked_up:
            flight.looked_up = now
            output = None if value is None else unseal(flight.key, value, flight.served.output_width)
            if output is not None:
                found[flight.served].append((flight, output))
            else:
                misses[flight.served].append(flight)
                if value is not None:
                    metrics.CACHE_CORRUPT.inc()
        for served, hits in found.items():
            answers = served.reader.answers(np.stack([output for _, output in hits]))
            for (flight, _), answer in zip(hits, answers, strict=True):
                flight.tier = tier
                self._arrive(flight, answer)
        return misses

    def computed(self, flights: Sequence[Flight], outputs: Outputs, started: float, finished: float) -> None:
        """The model ran: for the batchers. All flights are of one model version.

        Args:
            outputs: float32, shape (flights, output_width). started, finished: on the monotonic clock, seconds.
        """
        answers = flights[0].served.reader.answers(outputs)
        self._shared.put_many(seal_many([flight.key for flight in flights], outputs))
        for flight, answer in zip(flights, answers, strict=True):
            flight.started = started
            flight.ran = finished
            self._arrive(flight, answer)

    def _arrive(self, flight: Flight, answer: Answer) -> None:
        self._local.put(flight.key, answer)
        flight.land(answer)


def log_rows(
    served: Served,
    rows: Sequence[Row],
    answers: Sequence[Answer],
    tiers: Sequence[str],
    first_id: int,
    *,
    unix_ms: int,
    request_id: str,
) -> list[bytes]:
    """Rows and what was answered, as the log takes them. Their ids count up from the first; see record.pack_row."""
    of_all = (unix_ms, pack_text(request_id), served.packed)
    if len(rows) == 1:  # nearly always, and then in half the time
        return [pack_row(first_id, rows[0].text, answers[0].packed, tiers[0], *of_all)]
    return [
        pack_row(id, row.text, answer.packed, tier, *of_all)
        for id, (row, answer, tier) in enumerate(zip(rows, answers, tiers, strict=True), first_id)
    ]


def _observe_flight(flight: Flight, begun: float) -> None:
    """Splits the wait for a flight into its stages. Who joined one half way waited only for the rest of it."""
    for stage, until in (
        (metrics.STAGE_CACHE, flight.looked_up),
        (metrics.STAGE_QUEUE, flight.started),
        (metrics.STAGE_RUN, flight.ran),
        (metrics.STAGE_WAKE, time.monotonic()),
    ):
        if until > begun:
            stage.observe(until - begun)
            begun = until
