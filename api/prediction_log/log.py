"""The prediction log of one worker, put together: link, spool, writer, replay, queries, upkeep."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict

from api.prediction_log import migrations
from api.prediction_log.link import Link, end
from api.prediction_log.queries import Queries, open_pool
from api.prediction_log.replay import Replay
from api.prediction_log.spool import Spool, SpoolUnavailable
from api.prediction_log.wire import severed_after
from api.prediction_log.writer import Writer

logger = logging.getLogger(__name__)

_SPOOL_SECONDS = 3  # for one write to the spool; with a commit's timeout before it, below a request's deadline
_MAX_WAITING_BYTES = 64 * 1024 * 1024
_PARTITIONS_SECONDS = 3600  # between looks at the partitions
_PARTITIONS_RETRY_SECONDS = 60
_PARTITIONS_TIMEOUT_SECONDS = 30
_SPOOL_CHECK_SECONDS = 5  # between writes that only see whether the spool takes writes


class LogStatus(NamedTuple):
    postgres_up: bool
    spool_writable: bool
    spool_rows: int


class PredictionLog:
    """Makes answers durable before they are given: in Postgres, or in the spool while Postgres is away.

    An async context manager. Opening it needs no Postgres; closing it first writes what was appended.
    """

    queries: Queries

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
        upkeep_seconds: float = 1,
        retry_seconds: float = 0.5,
    ) -> None:
        """
        Args:
            pool_size: connections at most, at least 2: one commits, the others query, replay and keep partitions.
            upkeep_seconds: between looks at the spool. retry_seconds: between attempts to reach Postgres again.
        Raises:
            psycopg.ProgrammingError: a dsn that is none.
        """
        # Read here, so that nonsense fails at start; the password beside it, so that no message quotes it.
        connect_args: dict[str, Any] = {**conninfo_to_dict(dsn), "application_name": "shoal"}
        if password is not None:
            connect_args["password"] = password
        self._retention_days = retention_days
        self._upkeep_seconds = upkeep_seconds
        self._spool_dir = spool_dir
        self._link = Link(
            connect_args=connect_args,
            commit_timeout_seconds=commit_timeout_seconds,
            migrations=migrations.load(),
            retry_seconds=retry_seconds,
        )
        self._spool = Spool(spool_dir, timeout_seconds=_SPOOL_SECONDS)
        self._writer = Writer(
            self._link,
            self._spool,
            gather_seconds=gather_seconds,
            max_group_rows=max_group_rows,
            max_waiting_bytes=_MAX_WAITING_BYTES,
        )
        self._pool = open_pool(connect_args, max_size=pool_size - 1)
        self._replay = Replay(self._spool, self._pool, spool_dir)
        self.queries = Queries(self._pool, lambda: self._link.is_up)
        self._stack = AsyncExitStack()

    def append(self, rows: Sequence[bytes]) -> asyncio.Future[None]:
        """Log packed rows (record.pack), all or none. The future resolves once they are durable.

        It may be cancelled: that hurts nobody else, and rows that are not on their way yet are then left out.

        Raises, or the future does:
            Overloaded: too much waits already; nothing was logged.
            LogUnavailable: neither Postgres nor the spool took them. After a timeout they may yet turn up.
        """
        return self._writer.append(rows)

    def status(self) -> LogStatus:
        """What is known without asking anybody; the spool's part at most a few seconds old."""
        return LogStatus(self._link.is_up, self._spool.is_writable, self._spool.rows)

    async def __aenter__(self) -> Self:
        """Raises MigrationRefused where Postgres holds a schema that this release was not made for."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._spool.close)
            await self._spool.check()
            if not self._spool.is_writable:
                logger.error(
                    "the spool in %s takes no writes: without Postgres there will be no answers", self._spool_dir
                )
            await self._pool.open(wait=False)
            stack.push_async_callback(self._pool.close, timeout=2)
            await self._link.open()
            stack.push_async_callback(self._link.close)
            upkeep = asyncio.create_task(self._keep_up(), name="prediction log: upkeep")
            stack.push_async_callback(end, upkeep)
            self._writer.open()
            stack.push_async_callback(self._writer.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _keep_up(self) -> None:
        """Brings the spool's numbers up to date, replays, and keeps partitions, for as long as the log is open."""
        next_check = time.monotonic() + _SPOOL_CHECK_SECONDS
        next_partitions = 0.0
        while True:
            if time.monotonic() >= next_check or not self._spool.is_writable:
                await self._spool.check()
                next_check = time.monotonic() + _SPOOL_CHECK_SECONDS
            else:
                await self._spool.refresh()
            if self._link.is_up:
                try:
                    if time.monotonic() >= next_partitions:
                        next_partitions = time.monotonic() + _PARTITIONS_RETRY_SECONDS
                        await self._keep_partitions()
                        next_partitions = time.monotonic() + _PARTITIONS_SECONDS
                    if self._spool.rows:
                        await self._replay.run()
                except (psycopg.Error, SpoolUnavailable, OSError) as error:
                    logger.warning("upkeep of the prediction log failed, and is tried again: %s", error)
                except Exception:  # whatever it was: without upkeep the spool would never empty
                    logger.exception("upkeep of the prediction log failed, and is tried again")
            await self._sleep()

    async def _keep_partitions(self) -> None:
        async with self._pool.connection(timeout=2) as connection:
            with severed_after(connection, _PARTITIONS_TIMEOUT_SECONDS):
                await migrations.keep_partitions(connection, retention_days=self._retention_days)

    async def _sleep(self) -> None:
        """For upkeep_seconds, or until Postgres comes back."""
        try:
            async with asyncio.timeout(self._upkeep_seconds):
                await self._link.came_up.wait()
                self._link.came_up.clear()
        except TimeoutError:
            return
