"""Group commit: rows of many requests share one COPY and one fsync. Each request waits for its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from operator import methodcaller

from api import metrics
from api.errors import LogUnavailable, Overloaded
from api.prediction_log.link import Link
from api.prediction_log.spool import Spool, SpoolUnavailable
from api.prediction_log.wire import PostgresAway

logger = logging.getLogger(__name__)

_MAX_GROUP_BYTES = 4 * 1024 * 1024  # about 0.1 s of COPY
_LEFT = methodcaller("cancelled")


class Group:
    """Callers whose rows go into one commit, with what each of them appended."""

    __slots__ = ("batches", "begun", "callers", "rows", "size")

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.batches: list[Sequence[bytes]] = []
        """Of each caller; durable as a whole or refused as a whole."""
        self.callers: list[asyncio.Future[None]] = []
        self.rows = 0
        self.size = 0  # bytes

    def add(self, batch: Sequence[bytes], size: int, durable: asyncio.Future[None]) -> None:
        self.batches.append(batch)
        self.callers.append(durable)
        self.rows += len(batch)
        self.size += size

    def leave_out_who_left(self) -> None:
        """What nobody was answered need not be logged."""
        if any(map(_LEFT, self.callers)):
            staying = [each for each in zip(self.batches, self.callers, strict=True) if not each[1].cancelled()]
            self.batches, self.callers = [batch for batch, _ in staying], [durable for _, durable in staying]
            self.rows = sum(map(len, self.batches))

    def resolve(self, refused: Mapping[int, str]) -> int:
        """Tells every caller. refused: index to reason, of those whose rows are not there. Returns how many are."""
        for index, reason in refused.items():
            logger.error("Postgres refuses a row of the prediction log: %s", reason)
            self.rows -= len(self.batches[index])
            _refuse(self.callers[index], f"the prediction log refuses the row: {reason}")
        for durable in self.callers:
            if not durable.done():
                durable.set_result(None)
        return self.rows

    def refuse(self, reason: str) -> None:
        for durable in self.callers:
            _refuse(durable, reason)


class Writer:
    """One in each worker. A group gathers while the one before it is committed, and until Postgres waits for its rows:
    who comes before that is still let in."""

    def __init__(
        self, link: Link, spool: Spool, *, gather_seconds: float, max_group_rows: int, max_waiting_bytes: int
    ) -> None:
        self._link = link
        self._spool = spool
        self._gather_seconds = gather_seconds
        self._max_group_rows = max_group_rows
        self._max_waiting_bytes = max_waiting_bytes
        self._groups: deque[Group] = deque()  # of which the last takes who comes
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop  # kept, as Python 3.11 asks the kernel for our pid to find it

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
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
        durable: asyncio.Future[None] = self._loop.create_future()
        if not rows:
            durable.set_result(None)
            return durable
        size = sum(map(len, rows))
        if self._waiting_bytes + size > self._max_waiting_bytes:
            raise Overloaded(f"{self._waiting_bytes} bytes wait for the prediction log already")
        self._waiting_bytes += size
        self._group_for(len(rows), size).add(rows, size, durable)
        return durable

    def _group_for(self, rows: int, size: int) -> Group:
        """The last one, unless it would grow too large; a caller is never split."""
        if self._groups:
            group = self._groups[-1]
            if group.rows + rows <= self._max_group_rows and group.size + size <= _MAX_GROUP_BYTES:
                return group
        group = Group()
        self._groups.append(group)
        self._arrived.set()
        return group

    async def _run(self) -> None:
        while not self._closing or self._groups:
            await self._arrived.wait()
            if not self._groups:
                return  # closed
            group = self._groups[0]
            gather = group.begun + self._gather_seconds - time.monotonic()
            if gather > 0 and not self._closing:
                await asyncio.sleep(gather)
            try:
                await self._commit(group)
            except Exception:  # whatever it was: these callers hear of it, and the next group gets its turn
                logger.exception("a group of the prediction log failed")
                self._seal(group)
                group.refuse("the prediction log failed")

    def _seal(self, group: Group) -> Sequence[Sequence[bytes]]:
        """Lets nobody in any more, unless that was done before. Returns its batches."""
        if self._groups and self._groups[0] is group:
            self._groups.popleft()
            self._waiting_bytes -= group.size
            if not self._groups and not self._closing:
                self._arrived.clear()
            group.leave_out_who_left()
            metrics.LOG_GROUPS.observe(group.rows)
        return group.batches

    async def _commit(self, group: Group) -> None:
        begun = time.monotonic()
        if self._link.is_up:
            try:
                refused = await self._link.commit(partial(self._seal, group))
            except PostgresAway:
                metrics.LOG_FAILURES_POSTGRES.inc()
                begun = time.monotonic()
            else:
                metrics.LOG_COMMIT_POSTGRES.observe(time.monotonic() - begun)
                metrics.LOG_ROWS_POSTGRES.inc(group.resolve(refused))
                return
        batches = self._seal(group)
        try:
            await self._spool.add(list(chain.from_iterable(batches)))
        except SpoolUnavailable as error:
            metrics.LOG_FAILURES_SPOOL.inc()
            logger.error("the prediction log takes nothing: %s", error)
            group.refuse("neither Postgres nor the spool takes the prediction log")
            return
        metrics.LOG_COMMIT_SPOOL.observe(time.monotonic() - begun)
        metrics.LOG_ROWS_SPOOL.inc(group.resolve({}))


def _refuse(durable: asyncio.Future[None], reason: str) -> None:
    if not durable.done():
        durable.set_exception(LogUnavailable(reason))
