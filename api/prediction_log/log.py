"""The prediction log of one worker: gathers rows, commits them together, and lets their callers go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from api import metrics
from api.errors import LogUnavailable, Overloaded
from api.prediction_log.migrations import MigrationRefused
from api.prediction_log.postgres import LogConnection, PostgresAway, RowRefused
from api.prediction_log.queries import Queries
from api.prediction_log.spool import Spool, SpoolBroken

logger = logging.getLogger(__name__)
T = TypeVar("T")

_PROBE_SECONDS = 0.5
_PARTITIONS_SECONDS = 3600
_REPLAY_ROWS = 1000
_MAX_WAITING_ROWS = 100_000  # about 50 MB; a log so far behind is an overload, not a delay


class LogStatus(NamedTuple):
    postgres_up: bool
    """Commits go to Postgres, not to the spool."""
    spool_writable: bool
    """The spool would take them."""
    spool_rows: int
    """Rows that wait there for Postgres, of all workers together."""


class Group(NamedTuple):
    """The rows of one caller, and its future."""

    rows: Sequence[bytes]
    done: asyncio.Future[None]


class PredictionLog:
    """An async context manager. Postgres need not be there when it opens: until it is, rows go to the spool."""

    def __init__(
        self,
        *,
        dsn: str,
        password: str | None,
        pool_size: int,
        spool_dir: Path,
        gather_seconds: float,
        max_group_rows: int,
        commit_timeout_seconds: float,
        retention_days: int = 90,
    ) -> None:
        """
        Args:
            dsn: libpq's connection string or URL.
            pool_size: connections, of which one commits and the others answer queries.
            gather_seconds: how long the first row of a commit waits for company.
            max_group_rows: most rows in one commit; a caller's rows are never parted.
            commit_timeout_seconds: how long Postgres may take, before the rows go to the spool.
            retention_days: age at which whole days are dropped.
        """
        self._gather_seconds = gather_seconds
        self._max_group_rows = max_group_rows
        self._retention_days = retention_days
        self._postgres = LogConnection(dsn, password, timeout_seconds=commit_timeout_seconds)
        self._replayer = LogConnection(dsn, password, timeout_seconds=4 * commit_timeout_seconds)
        self._spool = Spool(spool_dir)
        self._spool_thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._waiting: deque[Group] = deque()
        self._waiting_rows = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._up = False
        self._spool_writable = True
        self._spool_rows = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.queries = Queries(dsn, password, max_connections=pool_size - 1, is_up=lambda: self._up)

    async def __aenter__(self) -> Self:
        await self.queries.open()
        await self._connect()
        self._tasks = [
            asyncio.create_task(self._write(), name="log-writer"),
            asyncio.create_task(self._mind(), name="log-minder"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commits what waits, in Postgres or in the spool, and closes."""
        self._closing = True
        self._wake.set()
        writer, minder = self._tasks
        await asyncio.wait({writer})
        minder.cancel()
        await asyncio.wait({minder})
        self._postgres.close()
        self._replayer.close()
        await self.queries.close()
        await self._in_thread(self._spool.close)
        self._spool_thread.shutdown()

    def append(self, rows: Sequence[bytes]) -> asyncio.Future[None]:
        """Packed rows, see record.py.

        Returns:
            A future that resolves when all of them are durable, in Postgres or in the spool; a caller may cancel it
            without harm to others. It raises LogUnavailable when they could be made durable nowhere, and Overloaded,
            at once, when too many wait already.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiting_rows + len(rows) > _MAX_WAITING_ROWS:
            done.set_exception(Overloaded(f"{self._waiting_rows} rows already wait for the prediction log"))
        elif self._closing:
            done.set_exception(LogUnavailable("the prediction log is closed"))
        else:
            self._waiting.append(Group(rows, done))
            self._waiting_rows += len(rows)
            self._wake.set()
        return done

    def status(self) -> LogStatus:
        return LogStatus(self._up, self._spool_writable, self._spool_rows)

    # --- writing ------------------------------------------------------------------------------------------------------
    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            if not self._closing and self._gather_seconds and self._waiting_rows < self._max_group_rows:
                await asyncio.sleep(self._gather_seconds)
            while groups := self._cut():
                await self._commit(groups)
            self._wake.clear()
            if self._closing and not self._waiting:
                return

    def _cut(self) -> list[Group]:
        groups: list[Group] = []
        rows = 0
        while self._waiting and (not groups or rows + len(self._waiting[0].rows) <= self._max_group_rows):
            groups.append(self._waiting.popleft())
            rows += len(groups[-1].rows)
        self._waiting_rows -= rows
        return groups

    async def _commit(self, groups: list[Group]) -> None:
        try:
            rows = [row for group in groups for row in group.rows]
            if self._up and await self._commit_to_postgres(groups, rows):
                return
            await self._commit_to_spool(groups, rows)
        except BaseException as error:
            # A bug, or the end of the loop: in either case nobody may wait for ever.
            _fail(groups, f"{type(error).__name__}")
            if not isinstance(error, Exception):
                raise
            logger.exception("the log writer failed on %d groups", len(groups))

    async def _commit_to_postgres(self, groups: list[Group], rows: Sequence[bytes]) -> bool:
        """Whether the groups are settled; if not, Postgres is away and they belong into the spool."""
        begun = time.monotonic()
        try:
            try:
                await self._postgres.commit(rows)
            except RowRefused:
                # Nearly always a request that nginx sent again: its rows are there already.
                await self._postgres.commit_again(rows)
        except PostgresAway as error:
            self._lost_postgres(error)
            return False
        except RowRefused as error:
            await self._commit_one_by_one(groups, error)
            return True
        metrics.LOG_COMMIT_POSTGRES.observe(time.monotonic() - begun)
        metrics.LOG_ROWS_POSTGRES.inc(len(rows))
        metrics.LOG_GROUP_ROWS.observe(len(rows))
        _release(groups)
        return True

    async def _commit_one_by_one(self, groups: list[Group], error: RowRefused) -> None:
        """One group holds what Postgres does not take: it fails alone."""
        if len(groups) == 1:
            metrics.LOG_FAILURES_POSTGRES.inc()
            logger.error("Postgres refused a group of %d rows: %s", len(groups[0].rows), error)
            _fail(groups, "Postgres does not take one of the rows")
            return
        for group in groups:
            if not await self._commit_to_postgres([group], group.rows):
                await self._commit_to_spool([group], group.rows)

    async def _commit_to_spool(self, groups: list[Group], rows: Sequence[bytes]) -> None:
        begun = time.monotonic()
        try:
            await self._in_thread(self._spool.append, rows)
        except SpoolBroken as error:
            self._spool_writable = False
            metrics.LOG_FAILURES_SPOOL.inc()
            logger.error("neither Postgres nor the spool took %d rows: %s", len(rows), error)
            _fail(groups, "neither Postgres nor the spool took the rows")
            return
        self._spool_writable = True
        self._set_spool_rows(self._spool_rows + len(rows))
        metrics.LOG_COMMIT_SPOOL.observe(time.monotonic() - begun)
        metrics.LOG_ROWS_SPOOL.inc(len(rows))
        metrics.LOG_GROUP_ROWS.observe(len(rows))
        _release(groups)

    # --- minding Postgres and the spool -------------------------------------------------------------------------------
    async def _mind(self) -> None:
        """Brings Postgres back when it is away, replays the spool, and keeps partitions ahead."""
        partitions_at = 0.0
        while True:
            try:
                if not self._up:
                    await self._connect()
                if self._up and time.monotonic() >= partitions_at and await self._keep_partitions():
                    partitions_at = time.monotonic() + _PARTITIONS_SECONDS
                self._set_spool_rows(await self._in_thread(self._spool.count))
                self._spool_writable = True
                if self._up and self._spool_rows:
                    await self._replay()
            except SpoolBroken as error:
                if self._spool_writable:
                    logger.error("the spool cannot be used: %s", error)
                self._spool_writable = False
            except Exception:  # whatever it is, the next round may do better
                logger.exception("minding the log failed")
            await asyncio.sleep(_PROBE_SECONDS)

    async def _connect(self) -> None:
        try:
            await self._postgres.open()
        except (PostgresAway, RowRefused, MigrationRefused) as error:
            if isinstance(error, MigrationRefused):
                logger.error("the database is not ours to write to, so rows are spooled: %s", error)
            return
        self._up = True
        metrics.LOG_POSTGRES_UP.set(1)
        logger.info("the log commits to Postgres")

    def _lost_postgres(self, error: PostgresAway) -> None:
        metrics.LOG_FAILURES_POSTGRES.inc()
        metrics.LOG_POSTGRES_UP.set(0)
        self._up = False
        self._postgres.close()
        logger.warning("Postgres is away, rows go to the spool: %s", error)

    async def _keep_partitions(self) -> bool:
        try:
            await self._replayer.open()
            await self._replayer.keep_partitions(self._retention_days)
        except (PostgresAway, RowRefused, MigrationRefused) as error:
            logger.warning("partitions are made later: %s", error)
            return False
        finally:
            self._replayer.close()
        return True

    async def _replay(self) -> None:
        """Moves the spool to Postgres, chunk by chunk, if no other worker does."""
        with self._spool.replaying() as mine:
            if not mine:
                return
            try:
                await self._replayer.open()
                while rows := await self._in_thread(self._spool.peek, _REPLAY_ROWS):
                    await self._replay_chunk(rows)
                    self._set_spool_rows(await self._in_thread(self._spool.count))
            except (PostgresAway, MigrationRefused) as error:
                logger.warning("the replay goes on later: %s", error)
            finally:
                self._replayer.close()

    async def _replay_chunk(self, rows: Sequence[bytes]) -> None:
        try:
            await self._replayer.commit_again(rows)
        except RowRefused as error:
            if len(rows) == 1:
                logger.error("Postgres does not take a spooled row, it is kept in the spool's table refused: %s", error)
                await self._in_thread(self._spool.set_aside, rows[0], str(error))
                return
            for row in rows:
                await self._replay_chunk([row])
            return
        await self._in_thread(self._spool.remove, rows)
        metrics.SPOOL_REPLAYED_ROWS.inc(len(rows))

    def _set_spool_rows(self, rows: int) -> None:
        self._spool_rows = rows
        metrics.SPOOL_ROWS.set(rows)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._spool_thread, work, *arguments)


def _release(groups: Sequence[Group]) -> None:
    for group in groups:
        if not group.done.done():
            group.done.set_result(None)


def _fail(groups: Sequence[Group], why: str) -> None:
    for group in groups:
        if not group.done.done():
            group.done.set_exception(LogUnavailable(f"{why}; nothing was answered, send it again"))
