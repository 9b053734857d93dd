"""The connection that commits the log: opened, proved, lost, opened again. Knows whether Postgres is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import psycopg
from psycopg import AsyncConnection

from api import metrics
from api.prediction_log import statements
from api.prediction_log.migrations import Migration, MigrationRefused, migrate, pending
from api.prediction_log.wire import PostgresAway, Wire, sever, severed_after

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 2  # the least that libpq takes
_MIGRATE_SECONDS = 4 * 3600  # a migration may write every row of the log anew; broken off, it would begin anew for ever
_PROVE_SECONDS = 2
# What a commit needs, tried: the table, the right to write to it, no lock in the way, and a disk that takes a commit
# record. A server that answers but cannot do these would otherwise cost requests a timeout each time it looks well.
_PROVE = (
    "BEGIN; LOCK TABLE predictions IN ROW EXCLUSIVE MODE;"
    "SELECT pg_logical_emit_message(true, 'shoal', 'can commit'); COMMIT"
)


class Link:
    """Commits batches of rows while Postgres is there, and says at once when it is not."""

    def __init__(
        self,
        *,
        connect_args: Mapping[str, Any],
        commit_timeout_seconds: float,
        migrations: list[Migration],
        retry_seconds: float,
    ) -> None:
        """connect_args: of AsyncConnection.connect. retry_seconds: between attempts to reach Postgres again."""
        self._connect_args = connect_args
        self._commit_timeout_seconds = commit_timeout_seconds
        self._migrations = migrations
        self._retry_seconds = retry_seconds
        self._wire: Wire | None = None
        self._opening: AsyncConnection[Any] | None = None
        self._lost = asyncio.Event()
        self._tried = asyncio.Event()
        self._refusal: MigrationRefused | None = None
        self._reported = ""
        self._keeper: asyncio.Task[None] | None = None
        self.came_up = asyncio.Event()
        """Set each time Postgres comes back; whoever waits for it clears it."""

    @property
    def is_up(self) -> bool:
        return self._wire is not None

    async def open(self) -> None:
        """Returns after the first attempt, or after a few seconds: with Postgres, without it, or not knowing yet.

        Raises:
            MigrationRefused: Postgres is there, and its schema is not what this release was made for.
        """
        metrics.LOG_POSTGRES_UP.set(0)
        self._keeper = asyncio.create_task(self._keep(), name="prediction log: link")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS + _PROVE_SECONDS):
                await self._tried.wait()
        except TimeoutError:
            logger.warning("Postgres takes its time; the log goes to the spool until it answers")
        if self._refusal is not None:
            await self.close()
            raise self._refusal

    async def close(self) -> None:
        if self._keeper is not None:
            if self._opening is not None:
                sever(self._opening)  # else cancelling would wait for the server's consent
            await end(self._keeper)
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    # --- committing ---------------------------------------------------------------------------------------------------
    async def commit(self, take: Callable[[], Sequence[Sequence[bytes]]]) -> dict[int, str]:
        """Make the packed rows of all batches durable, together if possible; a row that is there already is fine.

        Args:
            take: gives the batches, the same ones if it is called again. Called when Postgres waits for them, so that
                what comes until then need not wait for another commit; not at all where Postgres is away before.
        Returns:
            For the batches that Postgres refuses, each as a whole: index to reason. Usually empty.
        Raises:
            PostgresAway: within the commit timeout. Any, all or none of the rows may be there.
        """
        wire = self._wire
        if wire is None:
            raise PostgresAway("Postgres is away")
        timer = asyncio.get_running_loop().call_later(
            self._commit_timeout_seconds, wire.lose, f"no commit within {self._commit_timeout_seconds} s"
        )
        try:
            try:
                await wire.execute(statements.COPY, lambda: statements.copy_data(chain.from_iterable(take())))
            except psycopg.Error as error:
                if not (statements.blames_a_row(error) or statements.may_be_there_already(error)):
                    raise
                return await _commit_known(wire, dict(enumerate(take())))
            return {}
        except psycopg.Error as error:
            wire.lose(_first_line(error))
            raise PostgresAway(str(error)) from error
        finally:
            timer.cancel()

    # --- keeping the connection ---------------------------------------------------------------------------------------
    async def _keep(self) -> None:
        while True:
            try:
                connection = await self._connect()
            except Exception as error:  # noqa: BLE001 - whatever it was: without another attempt the log never comes back
                self._refusal = error if isinstance(error, MigrationRefused) else None
                self._report(_first_line(error))
            else:
                self._lost.clear()
                self._wire = Wire(connection, self._on_lost)
                self._reported = ""
                metrics.LOG_POSTGRES_UP.set(1)
                logger.info("the prediction log goes to Postgres")
                self.came_up.set()
                self._tried.set()
                await self._lost.wait()
            self._tried.set()
            await asyncio.sleep(self._retry_seconds)

    async def _connect(self) -> AsyncConnection[Any]:
        """A connection on which a commit of the log was seen to be possible."""
        connection = await AsyncConnection.connect(
            **{**self._connect_args, "autocommit": True, "connect_timeout": _CONNECT_SECONDS}
        )
        self._opening = connection
        try:
            with severed_after(connection, _PROVE_SECONDS):
                missing = await pending(connection, self._migrations)
            if missing:
                with severed_after(connection, _MIGRATE_SECONDS):
                    await migrate(connection, self._migrations)
            with severed_after(connection, _PROVE_SECONDS):
                # A server may be set to acknowledge commits before they are durable; the log may not.
                await connection.execute(
                    "SELECT set_config('synchronous_commit', 'on', false)"
                    " WHERE current_setting('synchronous_commit') = 'off'"
                )
                # What was given up here is given up there too, also while it waits for a lock.
                timeout_ms = str(int(self._commit_timeout_seconds * 1000))
                await connection.execute("SELECT set_config('statement_timeout', %s, false)", (timeout_ms,))
                await connection.execute(_PROVE)
        except BaseException:
            await connection.close()
            raise
        finally:
            self._opening = None
        return connection

    def _on_lost(self, reason: str) -> None:
        self._wire = None
        metrics.LOG_POSTGRES_UP.set(0)
        self._report(reason)
        self._lost.set()

    def _report(self, reason: str) -> None:
        if reason != self._reported:  # once, and not at every attempt
            logger.warning("Postgres is away, the prediction log goes to the spool: %s", reason)
            self._reported = reason


async def end(task: asyncio.Task[None], *, again_seconds: float = 0.1) -> None:
    """Cancel a task and wait until it has ended.

    More than once if need be: a cancellation is lost when what is interrupted fails in its own way, as a statement of
    psycopg's may, and is then taken for an ordinary failure.

    again_seconds: between two of them. Longer than the task needs to clean up, which the second would break off.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=again_seconds)


async def _commit_known(wire: Wire, batches: dict[int, Sequence[bytes]]) -> dict[int, str]:
    """Commit what may be there already, or may hold a row that Postgres refuses: halved until that one is alone."""
    try:
        await wire.execute(statements.STAGE)
        await wire.execute(b"BEGIN")
        data = statements.copy_data(chain.from_iterable(batches.values()))
        await wire.execute(statements.COPY_STAGED, lambda: data)
        await wire.execute(statements.INSERT_STAGED)
        await wire.execute(b"COMMIT")
        return {}
    except psycopg.Error as error:
        if not statements.blames_a_row(error):
            raise
        await wire.execute(b"ROLLBACK")
        if len(batches) == 1:
            return {index: _first_line(error) for index in batches}
    half = len(batches) // 2
    items = list(batches.items())
    return await _commit_known(wire, dict(items[:half])) | await _commit_known(wire, dict(items[half:]))


def _first_line(error: Exception) -> str:
    """Without the detail and the context, where Postgres quotes the row."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return str(error).partition("\n")[0] or type(error).__name__
