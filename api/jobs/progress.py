"""Watches jobs for whoever wants to see them get on: one look at Postgres for all watchers of a replica's worker."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from uuid import UUID

from api.errors import JobsUnavailable
from api.jobs.job import FINISHED, Row
from api.jobs.store import Store

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5


class Progress:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._watchers: defaultdict[UUID, list[asyncio.Queue[Row | None]]] = defaultdict(list)
        self._looking: asyncio.Task[None] | None = None
        self._stopping = False

    async def of(self, id: UUID, every_seconds: float) -> AsyncIterator[Row | None]:
        """The job now, again with each change, and last when it has ended. None where nothing has happened for
        `every_seconds`. Ends early when the replica stops: whoever asks again gets another one.

        Raises UnknownJob.
        """
        row: Row | None = await self._store.get(id)
        changes: asyncio.Queue[Row | None] = asyncio.Queue()
        self._watchers[id].append(changes)
        try:
            if self._looking is None:
                self._looking = asyncio.create_task(self._look(), name="jobs: progress")
            while True:
                yield row
                if self._stopping or (row is not None and row["state"] in FINISHED):
                    return
                try:
                    async with asyncio.timeout(every_seconds):
                        row = await changes.get()
                except TimeoutError:
                    row = None
        finally:
            self._watchers[id].remove(changes)
            if not self._watchers[id]:
                del self._watchers[id]

    def stop(self) -> None:
        """Ends all watching."""
        self._stopping = True
        for watchers in self._watchers.values():
            for changes in watchers:
                changes.put_nowait(None)
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        seen: dict[UUID, tuple[object, ...]] = {}
        while self._watchers:
            try:
                rows = await self._store.look(list(self._watchers))
            except JobsUnavailable:
                rows = []  # watchers hear that nothing happened, and go on
            except Exception:  # whatever it was: who watches would never see an end
                logger.exception("jobs that are watched could not be looked at, and are again")
                rows = []
            for row in rows:
                now = (row["state"], row["rows_done"], row["rows_failed"], row["chunks_dead"])
                if seen.get(row["id"]) != now:
                    seen[row["id"]] = now
                    for changes in self._watchers.get(row["id"], ()):
                        changes.put_nowait(row)
            await asyncio.sleep(_LOOK_SECONDS)
        self._looking = None
