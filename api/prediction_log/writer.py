"""Group commit: rows of many requests share one COPY and one fsync. Each request waits for its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from api import metrics
from api.errors import LogUnavailable, Overloaded
from api.prediction_log.link import Link
from api.prediction_log.spool import Spool, SpoolUnavailable
from api.prediction_log.wire import PostgresAway
from api.tallies import CounterTally

logger = logging.getLogger(__name__)

_MAX_GROUP_BYTES = 4 * 1024 * 1024  # about 0.1 s of COPY


class Waiting(NamedTuple):
    """What one caller appended. Durable as a whole or refused as a whole."""

    rows: Sequence[bytes]
    size: int  # bytes
    durable: asyncio.Future[None]


class Writer:
    """One in each worker. While a commit is on its way, the next group gathers."""

    def __init__(
        self, link: Link, spool: Spool, *, gather_seconds: float, max_group_rows: int, max_waiting_bytes: int
    ) -> None:
        self._link = link
        self._spool = spool
        self._gather_seconds = gather_seconds
        self._max_group_rows = max_group_rows
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = 0
        self._first_came = 0.0
        self._arrived = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="prediction log: writer")

    async def close(self) -> None:
        """Returns once all that was appended is durable or refused."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await asyncio.wait({self._task})

    def append(self, rows: Sequence[bytes]) -> asyncio.Future[None]:
        """See PredictionLog.append."""
        if self._closing:
            raise LogUnavailable("the prediction log is closed")
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not rows:
            durable.set_result(None)
            return durable
        size = sum(map(len, rows))
        if self._waiting_bytes + size > self._max_waiting_bytes:
            raise Overloaded(f"{self._waiting_bytes} bytes wait for the prediction log already")
        if not self._waiting:
            self._first_came = time.monotonic()
            self._arrived.set()
        self._waiting.append(Waiting(rows, size, durable))
        self._waiting_bytes += size
        return durable

    async def _run(self) -> None:
        while not self._closing or self._waiting:
            await self._arrived.wait()
            gather = self._first_came + self._gather_seconds - time.monotonic()
            if gather > 0 and not self._closing:
                await asyncio.sleep(gather)
            group = self._take()
            if not group:
                continue
            try:
                await self._commit(group)
            except Exception:  # whatever it was: these callers hear of it, and the next group gets its turn
                logger.exception("a group of the prediction log failed")
                for waiting in group:
                    _refuse(waiting, "the prediction log failed")

    def _take(self) -> list[Waiting]:
        """The next group. Leaves out callers that left: what nobody was answered need not be logged."""
        group: list[Waiting] = []
        rows = size = 0
        while self._waiting:
            waiting = self._waiting[0]
            if group and (rows + len(waiting.rows) > self._max_group_rows or size + waiting.size > _MAX_GROUP_BYTES):
                break
            self._waiting.popleft()
            self._waiting_bytes -= waiting.size
            if not waiting.durable.cancelled():
                group.append(waiting)
                rows += len(waiting.rows)
                size += waiting.size
        if not self._waiting and not self._closing:
            self._arrived.clear()
        return group

    async def _commit(self, group: list[Waiting]) -> None:
        batches = [waiting.rows for waiting in group]
        metrics.LOG_GROUPS.observe(sum(map(len, batches)))
        begun = time.monotonic()
        if self._link.is_up:
            try:
                refused = await self._link.commit(batches)
            except PostgresAway:
                metrics.LOG_FAILURES_POSTGRES.inc()
                begun = time.monotonic()
            else:
                metrics.LOG_COMMIT_POSTGRES.observe(time.monotonic() - begun)
                _resolve(group, refused, metrics.LOG_ROWS_POSTGRES)
                return
        try:
            await self._spool.add([row for rows in batches for row in rows])
        except SpoolUnavailable as error:
            metrics.LOG_FAILURES_SPOOL.inc()
            logger.error("the prediction log takes nothing: %s", error)
            for waiting in group:
                _refuse(waiting, "neither Postgres nor the spool takes the prediction log")
            return
        metrics.LOG_COMMIT_SPOOL.observe(time.monotonic() - begun)
        _resolve(group, {}, metrics.LOG_ROWS_SPOOL)


def _resolve(group: list[Waiting], refused: dict[int, str], counter: CounterTally) -> None:
    rows = 0
    for index, waiting in enumerate(group):
        if refused and index in refused:
            logger.error("Postgres refuses a row of the prediction log: %s", refused[index])
            _refuse(waiting, f"the prediction log refuses the row: {refused[index]}")
            continue
        rows += len(waiting.rows)
        if not waiting.durable.done():
            waiting.durable.set_result(None)
    counter.inc(rows)


def _refuse(waiting: Waiting, reason: str) -> None:
    if not waiting.durable.done():
        waiting.durable.set_exception(LogUnavailable(reason))
