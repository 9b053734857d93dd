"""Reading the log back: one prediction by its id, or pages of them, newest first."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import logging
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from api.errors import InvalidRequest, QueryUnavailable
from api.prediction_log.record import COLUMNS

_CONNECT_SECONDS = 2
_STATEMENT_SECONDS = 5
_CURSOR = struct.Struct("!q16s")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SELECT = f"SELECT {COLUMNS} FROM predictions WHERE "  # noqa: S608  our own constant

logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # it warns at each attempt while Postgres is away


class Queries:
    """Every call raises QueryUnavailable, within seconds, while Postgres is away or slow."""

    def __init__(self, dsn: str, password: str | None, *, max_connections: int, is_up: Callable[[], bool]) -> None:
        """is_up: whether it is worth asking; while it is not, a query fails at once."""
        self._is_up = is_up
        self._pool: AsyncConnectionPool[AsyncConnection[dict[str, Any]]] = AsyncConnectionPool(
            dsn,
            kwargs={
                "password": password,
                "autocommit": True,
                "row_factory": dict_row,
                "connect_timeout": _CONNECT_SECONDS,
                "application_name": "shoal queries",
                "options": f"-c timezone=UTC -c statement_timeout={_STATEMENT_SECONDS}s",
            },
            # None is held while nobody asks: the log is written all the time and read now and then.
            min_size=0,
            max_size=max_connections,
            max_idle=60,
            timeout=_CONNECT_SECONDS,
            check=AsyncConnectionPool.check_connection,
            open=False,
        )

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()

    async def get(self, id: UUID) -> dict[str, Any] | None:
        """The prediction of that id as JSON members, or None.

        The id holds its time, so only one day's partition is read.
        """
        at = _EPOCH + dt.timedelta(milliseconds=id.int >> 80)
        async with self._connection() as connection:
            cursor = await connection.execute(_SELECT + '"timestamp" = %s AND id = %s', (at, id))
            row = await cursor.fetchone()
        return None if row is None else _members(row)

    async def page(
        self,
        *,
        model: str | None = None,
        version: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Up to `limit` predictions, newest first, and the cursor of the next page, None on the last.

        Args:
            since, until: from, and before; a time without a zone is UTC.
        Raises:
            InvalidRequest: a cursor that no page gave, or a filter that cannot be text.
        """
        conditions: list[sql.Composable] = [sql.SQL("true")]
        values: list[Any] = []
        for column, value in (("model", model), ("version", version)):
            if value is not None:
                if "\0" in value:
                    raise InvalidRequest(f"expected a name, got one with a NUL character ({column})")
                conditions.append(sql.SQL("{} = %s").format(sql.Identifier(column)))
                values.append(value)
        if since is not None:
            conditions.append(sql.SQL('"timestamp" >= %s'))
            values.append(_with_zone(since))
        if until is not None:
            conditions.append(sql.SQL('"timestamp" < %s'))
            values.append(_with_zone(until))
        if cursor is not None:
            conditions.append(sql.SQL('("timestamp", id) < (%s, %s)'))
            values += _read_cursor(cursor)
        statement = sql.SQL(_SELECT) + sql.SQL(" AND ").join(conditions)
        statement += sql.SQL(' ORDER BY "timestamp" DESC, id DESC LIMIT %s')
        async with self._connection() as connection:
            found = await (await connection.execute(statement, [*values, limit + 1])).fetchall()
        more = len(found) > limit
        return [_members(row) for row in found[:limit]], _cursor(found[limit - 1]) if more else None

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[dict[str, Any]]]:
        if not self._is_up():
            raise QueryUnavailable("Postgres is away; predictions are answered and kept, and can be read again later")
        try:
            async with self._pool.connection() as connection:
                yield connection
        except psycopg.errors.QueryCanceled as error:
            raise QueryUnavailable(
                f"the query took longer than {_STATEMENT_SECONDS} s; narrow its time range"
            ) from error
        except (psycopg.OperationalError, PoolTimeout, OSError) as error:
            raise QueryUnavailable(f"Postgres did not answer: {type(error).__name__}") from error


def _members(row: dict[str, Any]) -> dict[str, Any]:
    timestamp: dt.datetime = row["timestamp"]
    return {**row, "id": str(row["id"]), "timestamp": timestamp.isoformat(timespec="milliseconds")}


def _with_zone(time: dt.datetime) -> dt.datetime:
    return time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)


def _cursor(row: dict[str, Any]) -> str:
    micros = (row["timestamp"] - _EPOCH) // dt.timedelta(microseconds=1)
    return base64.urlsafe_b64encode(_CURSOR.pack(micros, row["id"].bytes)).decode()


def _read_cursor(cursor: str) -> tuple[dt.datetime, UUID]:
    try:
        micros, id = _CURSOR.unpack(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True))
        return _EPOCH + dt.timedelta(microseconds=micros), UUID(bytes=id)
    except (binascii.Error, struct.error, OverflowError, ValueError) as error:
        raise InvalidRequest("expected a cursor as the page before gave it (cursor)") from error
