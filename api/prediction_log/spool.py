"""The spool on the event loop's side: one thread, a bound on each wait, and what is known without asking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from api import metrics
from api.prediction_log.spool_file import SpooledRow, SpoolFile, SpoolUnavailable

__all__ = ["Spool", "SpoolUnavailable", "SpooledRow"]

T = TypeVar("T")


class Spool:
    """Takes rows while Postgres is away. `rows` and `is_writable` are as of the last call."""

    def __init__(self, folder: Path, *, timeout_seconds: float) -> None:
        """timeout_seconds: of a call. A hanging disk, or a process frozen while it holds the lock, costs that once."""
        self._file = SpoolFile(folder)
        self._timeout_seconds = timeout_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._overdue: asyncio.Future[Any] | None = None
        self.rows = 0
        self.is_writable = False

    async def add(self, rows: Sequence[bytes]) -> None:
        """Returns once the packed rows are durable. Raises SpoolUnavailable; they may be durable then, too."""
        await self._tallied(partial(self._file.add, rows))

    async def check(self) -> None:
        """Brings `rows` and `is_writable` up to date, the latter by a write. Never raises."""
        try:
            await self._tallied(self._file.check)
        except SpoolUnavailable:
            return

    async def refresh(self) -> None:
        """Brings `rows` up to date, which other processes change too. Never raises."""
        try:
            await self._tallied(self._file.count)
        except SpoolUnavailable:
            return

    async def oldest(self, *, max_rows: int, max_bytes: int) -> list[SpooledRow]:
        """See SpoolFile; so the following."""
        return await self._call(partial(self._file.oldest, max_rows=max_rows, max_bytes=max_bytes))

    async def remove(self, ids: Sequence[bytes]) -> None:
        await self._tallied(partial(self._file.remove, ids))

    async def put_aside(self, id: bytes, reason: str) -> None:
        await self._tallied(partial(self._file.put_aside, id, reason))

    async def shrink(self) -> None:
        await self._call(self._file.shrink)

    async def close(self) -> None:
        if self._overdue is not None and not self._overdue.done():
            self._thread.shutdown(wait=False)  # it may never come back
            return
        await asyncio.get_running_loop().run_in_executor(self._thread, self._file.close)
        self._thread.shutdown()

    async def _tallied(self, operation: Callable[[], int]) -> None:
        try:
            self.rows = await self._call(operation)
        except SpoolUnavailable:
            self.is_writable = False
            raise
        self.is_writable = True
        metrics.SPOOL_ROWS.set(self.rows)

    async def _call(self, operation: Callable[[], T]) -> T:
        if self._overdue is not None and not self._overdue.done():
            raise SpoolUnavailable("the disk has not answered the last call yet")
        call = asyncio.get_running_loop().run_in_executor(self._thread, operation)
        done, _ = await asyncio.wait({call}, timeout=self._timeout_seconds)
        if not done:
            self._overdue = call
            call.add_done_callback(lambda call: call.exception())  # nobody waits for it any more
            raise SpoolUnavailable(f"no answer from the disk within {self._timeout_seconds} s")
        return call.result()
