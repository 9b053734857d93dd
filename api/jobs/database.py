"""Transactions of jobs: bounded in time, and with one error for whatever keeps Postgres from answering."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from api.errors import JobsUnavailable
from api.prediction_log.queries import open_pool
from api.prediction_log.wire import severed_after

Connection = AsyncConnection[DictRow]
_POOL_SECONDS = 2  # for a connection
_TRANSACTION_SECONDS = 15  # then it is severed; each statement has 5 s, as for queries of the log


class Database:
    """A pool of connections. Opening it needs no Postgres."""

    def __init__(self, *, dsn: str, password: str | None, pool_size: int) -> None:
        connect_args: dict[str, Any] = {**conninfo_to_dict(dsn), "application_name": "shoal jobs"}
        # A process that is frozen severs nothing, and all other workers would wait for what it has locked.
        timeout = f"-c idle_in_transaction_session_timeout={_TRANSACTION_SECONDS}s"
        connect_args["options"] = f"{connect_args.get('options', '')} {timeout}"
        if password is not None:
            connect_args["password"] = password
        self._pool: AsyncConnectionPool[Connection] = open_pool(
            {**connect_args, "row_factory": dict_row}, max_size=pool_size
        )

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close(timeout=2)

    @asynccontextmanager
    async def transaction(self, *, waits_for_disk: bool = True) -> AsyncIterator[Connection]:
        """Committed at the end, unless an error leaves it.

        waits_for_disk: else Postgres may forget it if it dies within a second, together with all that came later. Not
        waiting spares others as well: whoever commits meanwhile, a single prediction for one, waits for the disk twice.

        Raises JobsUnavailable: Postgres is away, or does not answer. The transaction may yet have been committed when
        that happened at its end.
        """
        try:
            async with self._pool.connection(timeout=_POOL_SECONDS) as connection:
                with severed_after(connection, _TRANSACTION_SECONDS):
                    async with connection.transaction():
                        if not waits_for_disk:
                            await connection.execute("SET LOCAL synchronous_commit TO off")
                        yield connection
        except PoolTimeout as error:
            raise JobsUnavailable("all connections for jobs are busy, or Postgres is away") from error
        except (
            psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.IdleInTransactionSessionTimeout,
        ) as error:  # fmt: skip
            # These are the server's and the connection's doing; a statement that is wrong is a bug, and shows.
            raise JobsUnavailable("Postgres went away, or took too long") from error
        except psycopg.errors.UndefinedTable as error:
            raise JobsUnavailable("Postgres has no tables for jobs yet") from error
