"""Jobs as a replica has them: taken in, shown, watched, given out, cancelled."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from api.jobs.callbacks import CallbackPolicy
from api.jobs.database import Database
from api.jobs.intake import Limits
from api.jobs.progress import Progress
from api.jobs.results import Results
from api.jobs.store import Store


class Jobs:
    """An async context manager. Opening it needs neither Postgres nor a broker."""

    def __init__(self, database: Database, *, limits: Limits, max_attempts: int, callbacks: CallbackPolicy) -> None:
        self._database = database
        self.limits = limits
        self.callbacks = callbacks
        self.store = Store(database, max_attempts=max_attempts)
        self.results = Results(self.store, database)
        self.progress = Progress(self.store)

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()
        await self._database.close()
