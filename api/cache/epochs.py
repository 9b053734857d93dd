"""Flushing the cache by model: epochs in Postgres, which every worker follows on a connection of its own."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict

from api import metrics
from api.cache.keys import KeySpace
from api.cache.local import LocalCache
from api.errors import FlushUnavailable
from api.prediction_log.link import end
from api.prediction_log.wire import sever, severed_after

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 2  # the least that libpq takes
_QUERY_SECONDS = 2
_FLUSH_WAIT_SECONDS = 2  # for the workers; they take some 10 ms
_LOOK_SECONDS = 0.01  # between looks at who has not taken the epoch yet

# Each worker's connection is named after the epoch up to which it follows, which is how a flush knows when all have it.
_NAME = "shoal epoch"
_READ = "SELECT model, version, epoch FROM cache_epochs"
_WHO_HAS_IT = f"""
SELECT count(*) FILTER (WHERE split_part(application_name, ' ', 3)::bigint >= %s), count(*)
FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '^{_NAME} [0-9]+$'
"""  # noqa: S608 - our own constant


class Flushed(NamedTuple):
    epoch: int
    """Microseconds since 1970."""
    workers: int
    """That have left the old answers."""
    pending: int
    """That are connected and have not, within 2 s: they hang. They will when they go on."""


class Epochs:
    """Keeps the KeySpaces of a worker at the epochs that Postgres has.

    An async context manager; open it before the worker serves. A worker that loses Postgres keeps its epochs: while
    Postgres is away nobody can flush. One that starts without it cannot know what was flushed before, so until
    Postgres is there it uses an epoch of its own: what Redis holds is out of its reach, rather than perhaps flushed.
    """

    def __init__(
        self,
        *,
        dsn: str,
        password: str | None,
        keys: Mapping[tuple[str, str], KeySpace],
        local: LocalCache[Any],
        retry_seconds: float = 0.5,
        check_seconds: float = 10,
    ) -> None:
        """
        Args:
            keys: by model and version. local: where answers under keys of theirs are dropped.
            retry_seconds: between attempts to reach Postgres again.
            check_seconds: between looks at the table without a notification, which also find a dead connection.
        """
        self._connect_args: dict[str, Any] = {
            **conninfo_to_dict(dsn),
            "application_name": "shoal",
            "autocommit": True,
            "connect_timeout": _CONNECT_SECONDS,
        }
        if password is not None:
            self._connect_args["password"] = password
        self._keys = keys
        self._local = local
        # One for each model, at 0 from the start: a rate over it is 0 and not absent.
        self._flushes = {model: metrics.CACHE_FLUSHES.labels(model) for model, _ in keys}
        self._retry_seconds = retry_seconds
        self._check_seconds = check_seconds
        self._connection: AsyncConnection[Any] | None = None
        self._tried = asyncio.Event()
        self._reported = ""
        self._follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        own = 1 << 63 | secrets.randbits(63)  # above any that Postgres gives
        for keys in self._keys.values():
            keys.epoch = own
        self._follower = asyncio.create_task(self._follow(), name="cache epochs")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._tried.wait()
        except TimeoutError:
            logger.warning("Postgres takes its time; what Redis holds is not used until it answers")
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._follower is not None:
            if self._connection is not None:
                sever(self._connection)  # else cancelling would wait for the server's consent
            await end(self._follower)

    # --- following ----------------------------------------------------------------------------------------------------
    async def _follow(self) -> None:
        while True:
            try:
                async with self._connected() as connection:
                    self._connection = connection
                    with severed_after(connection, _QUERY_SECONDS):
                        # Before the first look, so that no flush falls in between.
                        await connection.execute("LISTEN shoal_cache_epochs")
                        await _call_it(connection, 0)
                    while True:
                        await self._take(connection)
                        self._tried.set()
                        self._reported = ""
                        async for _ in connection.notifies(timeout=self._check_seconds, stop_after=1):
                            pass
            except Exception as error:  # noqa: BLE001 - whatever it was: without another attempt no flush arrives
                self._report(error)
            finally:
                self._connection = None
            self._tried.set()
            await asyncio.sleep(self._retry_seconds)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection[Any]]:
        connection = await AsyncConnection.connect(**self._connect_args)
        try:
            yield connection
        finally:
            await connection.close()

    async def _take(self, connection: AsyncConnection[Any]) -> None:
        """Bring all keys to the epochs that are in the table now, and say so."""
        with severed_after(connection, _QUERY_SECONDS):
            found = await (await connection.execute(_READ)).fetchall()
            epochs = {(model, version): epoch for model, version, epoch in found}
            self._apply(epochs)
            await _call_it(connection, max(epochs.values(), default=0))

    def _apply(self, epochs: Mapping[tuple[str, str], int]) -> None:
        changed = []
        for (model, version), keys in self._keys.items():
            epoch = max(epochs.get((model, ""), 0), epochs.get((model, version), 0))
            if keys.epoch != epoch:
                keys.epoch = epoch
                changed.append(keys.prefix)
        if changed:
            self._local.drop(tuple(changed))

    def _report(self, error: Exception) -> None:
        reason = str(error).partition("\n")[0] or type(error).__name__
        if reason != self._reported:  # once, and not at every attempt
            logger.warning("flushes of the cache cannot be followed while Postgres is away: %s", reason)
            self._reported = reason

    # --- flushing -----------------------------------------------------------------------------------------------------
    async def flush(self, model: str, version: str | None) -> Flushed:
        """Leave the cached answers of a model, or of one version of it, behind: in Redis and in every worker.

        Returns once every worker that is connected to Postgres has done so, or after 2 s. What is computed at the
        moment is answered to those who wait for it, and is not found by anybody who asks later.

        Redis keeps the old values until they expire or are evicted, the least used first, which is what these are from
        now on. To find and delete them would take a SCAN of all keys of all models, from a Redis that others wait for.

        Raises:
            FlushUnavailable: Postgres is away. The flush may or may not have happened; another does no harm.
        """
        try:
            async with self._connected() as connection:
                with severed_after(connection, _QUERY_SECONDS):
                    epoch = await _one(connection, "SELECT flush_cache(%s, %s)", model, version or "")
                with severed_after(connection, _FLUSH_WAIT_SECONDS + _QUERY_SECONDS):
                    flushed = await self._all_have(connection, epoch[0])
        except (psycopg.Error, OSError) as error:
            raise FlushUnavailable("Postgres is away, and nothing can be flushed without it; send it again") from error
        self._flushes[model].inc()
        logger.info("flushed the cache of %s/%s: %s", model, version or "*", flushed)
        return flushed

    async def _all_have(self, connection: AsyncConnection[Any], epoch: int) -> Flushed:
        loop = asyncio.get_running_loop()
        until = loop.time() + _FLUSH_WAIT_SECONDS
        while True:
            have, workers = await _one(connection, _WHO_HAS_IT, epoch)
            if have == workers or loop.time() >= until:
                return Flushed(epoch, have, workers - have)
            await asyncio.sleep(_LOOK_SECONDS)


async def _call_it(connection: AsyncConnection[Any], epoch: int) -> None:
    await connection.execute("SELECT set_config('application_name', %s, false)", (f"{_NAME} {epoch}",))


async def _one(connection: AsyncConnection[Any], query: str, *values: object) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = await (await connection.execute(query.encode(), values)).fetchone()
    assert row is not None  # noqa: S101 - these queries always give one
    return row
