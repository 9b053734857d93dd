"""How fast a worker of jobs goes: as fast as it can, and with pauses while somebody asks for single predictions.

For these to keep their latency the low priority of its own process (job_worker/priority.py) is not enough: rows of jobs
are written by Postgres, which has no such priority, and behind them a single prediction waits until its own is durable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from api import metrics
from api.errors import JobsUnavailable

logger = logging.getLogger(__name__)
T = TypeVar("T")

_LOOK_SECONDS = 0.1
_PIECE_ROWS = 128  # some 1 ms of a worker's work, and about as much of Postgres'
_MOST_PIECES = 32  # so that the pauses of one transaction come to less than its time
_LONGEST_PAUSE_SECONDS = 0.05  # what takes longer is a dear model, whose work has a low priority anyway


class Pace:
    def __init__(self, *, share: float, predictions_come: Callable[[], Awaitable[bool]]) -> None:
        """
        Args:
            share: of its time that the worker works while it gives way.
            predictions_come: whether anybody has asked for single predictions in the last second.
        """
        self._share = share
        self._predictions_come = predictions_come
        self._looked = float("-inf")
        self._turn = asyncio.Lock()
        self._gives_way = False

    async def pieces(self, rows: Sequence[T], most: int) -> AsyncIterator[Sequence[T]]:
        """The rows, as many at a time as is good now: `most` of them, or few."""
        at = 0
        while at < len(rows):
            await self._look()
            few = max(_PIECE_ROWS, len(rows) // _MOST_PIECES)
            count = min(few, most) if self._gives_way else most
            yield rows[at : at + count]
            at += count

    @asynccontextmanager
    async def piece(self) -> AsyncIterator[None]:
        """What is done with one of these. While the worker gives way, one at a time, and each with a pause after it."""
        if not self._gives_way:
            yield
            return
        async with self._turn:
            begun = time.monotonic()
            yield
            worked = time.monotonic() - begun
            pause = min(worked * (1 / self._share - 1), _LONGEST_PAUSE_SECONDS)
            metrics.JOB_PAUSE_SECONDS.inc(pause)
            await asyncio.sleep(pause)

    async def _look(self) -> None:
        if self._share == 1 or time.monotonic() < self._looked + _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            gives_way = await self._predictions_come()
        except JobsUnavailable:
            return  # nothing that has to wait is written at the moment, of whomever
        if gives_way != self._gives_way:
            self._gives_way = gives_way
            logger.debug("jobs are answered with pauses" if gives_way else "jobs are answered without pauses")
