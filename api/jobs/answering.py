"""From the rows of a chunk to what is written of them: the predictor of a replica, and its log's rows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from api.errors import ModelFailed, Overloaded
from api.flights import Served
from api.jobs.chunks import Taken
from api.jobs.job import first_row_id, unix_ms_of
from api.jobs.pace import Pace
from api.jobs.packing import unpack
from api.predictor import Predictor, log_rows
from api.rows import Row

_SLICE_ROWS = 512  # asked for together: some batches of a model, and one trip to Redis
_ROOM_SECONDS = 0.02  # between looks whether a model has room again


class Answered(NamedTuple):
    predictions: list[bytes]
    """Rows of the log, packed."""
    errors: list[dict[str, Any]]
    """{row, type, detail} of each row that the model failed on."""


class Answerer:
    def __init__(self, predictor: Predictor, resolve: Callable[[str, str], Served], pace: Pace) -> None:
        """resolve: a version of a model. Raises UnknownModel, UnknownVersion."""
        self._predictor = predictor
        self._resolve = resolve
        self._pace = pace

    async def answer(self, chunk: Taken) -> Answered:
        served = self._resolve(chunk.model, chunk.version)
        rows = unpack(chunk.input)
        next_id = first_row_id(chunk.job) + chunk.first_row
        predictions: list[bytes] = []
        errors: list[dict[str, Any]] = []
        async for some in self._pace.pieces(rows, _SLICE_ROWS):
            async with self._pace.piece():
                packed, failed = await self._answer(served, some, chunk, next_id)
            predictions += packed
            errors += failed
            next_id += len(some)
            await asyncio.sleep(0)  # whoever else runs here gets a turn
        return Answered(predictions, errors)

    async def _answer(
        self, served: Served, rows: Sequence[Row], chunk: Taken, first_id: int
    ) -> tuple[list[bytes], list[dict[str, Any]]]:
        try:
            answers, tiers = await self._ask(served, rows)
        except ModelFailed as error:
            row = first_id - first_row_id(chunk.job)
            if len(rows) == 1:
                return [], [{"row": row, "type": "model-failed", "detail": str(error)}]
            # Which one it was is not said. One by one, then; the others' answers are in the cache by now.
            predictions: list[bytes] = []
            errors: list[dict[str, Any]] = []
            for index, each in enumerate(rows):
                packed, failed = await self._answer(served, [each], chunk, first_id + index)
                predictions += packed
                errors += failed
            return predictions, errors
        for tier, count in Counter(tiers).items():
            served.counts[tier].inc(count)
        unix_ms, request_id = unix_ms_of(chunk.job), chunk.request_id
        return log_rows(served, rows, answers, tiers, first_id, unix_ms=unix_ms, request_id=request_id), []

    async def _ask(self, served: Served, rows: Sequence[Row]) -> tuple[list[Any], list[str]]:
        while True:
            try:
                return await self._predictor.answer(served, rows)
            except Overloaded:
                if len(rows) > 1 and not served.batcher.queued_rows:
                    # Of a model so slow that these are too many even for one that is idle.
                    half = len(rows) // 2
                    left, right = await self._ask(served, rows[:half]), await self._ask(served, rows[half:])
                    return left[0] + right[0], left[1] + right[1]
                await asyncio.sleep(_ROOM_SECONDS)
