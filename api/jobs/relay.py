"""From Postgres to the broker: the chunks that are ready, and no more of them than workers will soon take."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from api.errors import JobsUnavailable
from api.jobs.brokers import Session
from api.jobs.chunks import Chunks
from api.jobs.store import CHANNEL

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5  # at the latest, as notifications may be missed
_AT_ONCE = 256


class Relay:
    """One in each worker; what one of them has in hand, the others leave out."""

    def __init__(self, chunks: Chunks, *, most_out: int) -> None:
        """most_out: messages that may wait in the broker. See Chunks.ready."""
        self._chunks = chunks
        self._most_out = min(most_out, _AT_ONCE)
        self.wake = asyncio.Event()
        """Set it when there may be something to publish, or room for it."""

    async def run(self, session: Session) -> None:
        """Publishes until it is cancelled. Raises BrokerAway."""
        while True:
            self.wake.clear()
            try:
                published = await self._publish(session)
            except JobsUnavailable:
                published = 0  # they are all still there when Postgres is back
            if not published:
                await wait(self.wake, _LOOK_SECONDS)

    async def _publish(self, session: Session) -> int:
        async with self._chunks.transaction() as connection:
            hints = await self._chunks.ready(connection, self._most_out)
            if hints:
                # Before the commit: a message too many is harmless, one that is missing is found only later.
                await session.publish(hints)
                await self._chunks.published(connection, hints)
        return len(hints)

    async def listen(self, dsn: str, password: str | None, retry_seconds: float = 1) -> None:
        """Wakes the relay as soon as a job was accepted, until it is cancelled. Postgres may be away."""
        connect_args: dict[str, Any] = {
            **conninfo_to_dict(dsn),
            "autocommit": True,
            "connect_timeout": 2,
            "application_name": "shoal jobs",
        }
        if password is not None:
            connect_args["password"] = password
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(**connect_args) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}".encode())
                    self.wake.set()
                    async for _ in connection.notifies():
                        self.wake.set()
            except psycopg.Error as error:
                logger.debug("not listening for jobs: %s", error)
            await asyncio.sleep(retry_seconds)


async def wait(event: asyncio.Event, seconds: float) -> None:
    """For the event, or so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
