"""Reading the log: one row by its id, or pages of them, newest first."""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncCursor
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from api.errors import InvalidParameters, QueryUnavailable
from api.prediction_log.record import COLUMNS
from api.prediction_log.wire import severed_after

_POOL_SECONDS = 2  # for a connection
_QUERY_SECONDS = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM predictions WHERE "  # noqa: S608 - our own constants
_cursor = struct.Struct("!q16s")  # microseconds since 1970, id

# A page looks into the last days first: planning and opening every partition of a long retention would cost more than
# the page. Only if they do not fill it does it look further.
_WINDOWS = (timedelta(days=2), timedelta(days=30), None)


class Queries:
    """Gives rows as dicts ready for JSON: a key for each of COLUMNS, id and timestamp as text."""

    def __init__(self, pool: AsyncConnectionPool[Any], is_up: Callable[[], bool]) -> None:
        """is_up: whether Postgres is known to be there; while not, nobody waits to find that out again."""
        self._pool = pool
        self._is_up = is_up

    async def get(self, id: UUID) -> dict[str, Any] | None:
        """The row, or None. Raises QueryUnavailable."""
        try:
            # The id says in which partition to look, and where in it.
            timestamp = _EPOCH + timedelta(milliseconds=id.int >> 80)
        except OverflowError:
            return None  # of no year that a datetime knows
        rows = await self._fetch("timestamp = %(timestamp)s AND id = %(id)s", {"timestamp": timestamp, "id": id})
        return _to_json(rows[0]) if rows else None

    async def page(
        self,
        model: str | None = None,
        version: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Rows newest first, and the cursor of the next page, None after the last.

        Pages continue after a row, not at a number: rows that arrive meanwhile neither shift nor repeat any.

        Args:
            since, until: with their zone; the latter excluded.
            cursor: from the page before, asked with the same filters.
        Raises:
            InvalidParameters: a cursor that no page gave, a time without zone, a text that Postgres cannot hold.
            QueryUnavailable: Postgres is away, or the query took too long.
        """
        for name, time in (("since", since), ("until", until)):
            if time is not None and time.tzinfo is None:
                raise InvalidParameters(f"expected {name} with its zone, as in 2026-01-31T00:00:00Z, got none")
        for name, text in (("model", model), ("version", version)):
            if text is not None and not _is_storable(text):
                raise InvalidParameters(
                    f"expected the name of a {name}, got text that is not Unicode or has a NUL in it"
                )
        wanted: dict[str, Any] = {"limit": limit + 1}
        conditions = []
        if model is not None:
            conditions.append("model = %(model)s")
            wanted["model"] = model
        if version is not None:
            conditions.append("version = %(version)s")
            wanted["version"] = version
        if until is not None:
            conditions.append("timestamp < %(until)s")
            wanted["until"] = until
        newest = until or datetime.now(UTC)
        if cursor is not None:
            newest, wanted["after_id"] = _decode(cursor)
            # Said twice: the first lets Postgres leave out partitions, which it does not derive from the second.
            conditions.append("timestamp <= %(after)s AND (timestamp, id) < (%(after)s, %(after_id)s)")
            wanted["after"] = newest
        rows: list[dict[str, Any]] = []
        for window in _WINDOWS:
            oldest = max(filter(None, (since, _before(newest, window))), default=None)
            found = [*conditions] if oldest is None else [*conditions, "timestamp >= %(oldest)s"]
            where = (" AND ".join(found) or "true") + " ORDER BY timestamp DESC, id DESC LIMIT %(limit)s"
            rows = await self._fetch(where, {**wanted, "oldest": oldest})
            if len(rows) > limit or (since is not None and oldest == since):
                break
        following = _encode(rows[limit - 1]) if len(rows) > limit else None
        return [_to_json(row) for row in rows[:limit]], following

    async def _fetch(self, where: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        if not self._is_up():
            raise QueryUnavailable("Postgres is away; predictions are answered and kept, and can be queried later")
        try:
            async with self._pool.connection(timeout=_POOL_SECONDS) as connection:
                with severed_after(connection, _QUERY_SECONDS + 1):
                    cursor: AsyncCursor[dict[str, Any]] = connection.cursor(row_factory=dict_row)
                    # Planned for these values each time: that is what leaves out partitions.
                    await cursor.execute((_SELECT + where).encode(), values, prepare=False)
                    return await cursor.fetchall()
        except PoolTimeout as error:
            raise QueryUnavailable("all connections for queries are busy, or Postgres went away") from error
        except psycopg.errors.QueryCanceled as error:
            raise QueryUnavailable(f"the query took over {_QUERY_SECONDS} s; ask for a shorter time") from error
        except psycopg.Error as error:
            raise QueryUnavailable("Postgres went away during the query") from error


def open_pool(connect_args: Mapping[str, Any], *, max_size: int) -> AsyncConnectionPool[Any]:
    """A pool that holds connections only while they are used, and needs no Postgres to be opened."""

    async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute(
            "SELECT set_config('timezone', 'UTC', false), set_config('statement_timeout', %s, false)",
            (str(_QUERY_SECONDS * 1000),),
        )

    return AsyncConnectionPool(
        kwargs={**connect_args, "autocommit": True, "connect_timeout": 2},
        min_size=0,  # with more, it would knock at the door all through an outage, and log each time
        max_size=max_size,
        max_idle=60,
        configure=configure,
        # Tries again by itself only for as long as somebody waits; the next one to ask tries anew.
        reconnect_timeout=_POOL_SECONDS,
        open=False,
        name="prediction log",
    )


def _is_storable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _before(time: datetime, window: timedelta | None) -> datetime | None:
    try:
        return None if window is None else time - window
    except OverflowError:
        return None


def _to_json(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "id": str(row["id"]),
        "timestamp": row["timestamp"].isoformat(timespec="milliseconds"),
    }


def _encode(row: Mapping[str, Any]) -> str:
    microseconds = (row["timestamp"] - _EPOCH) // timedelta(microseconds=1)
    return urlsafe_b64encode(_cursor.pack(microseconds, row["id"].bytes)).decode()


def _decode(cursor: str) -> tuple[datetime, UUID]:
    try:
        microseconds, id = _cursor.unpack(urlsafe_b64decode(cursor))
        return _EPOCH + timedelta(microseconds=microseconds), UUID(bytes=id)
    except (Base64Error, ValueError, struct.error, OverflowError) as error:
        raise InvalidParameters("expected the next_cursor of the page before, got something else (cursor)") from error
