"""Takes a job in: rows as they arrive, checked, cut into chunks and put away, in memory bounded by a few chunks."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from api.errors import BodyTooLarge, InvalidRequest, InvalidRows, ServingError, TooManyRows
from api.jobs.formats import Format
from api.jobs.job import NewJob
from api.jobs.packing import pack
from api.jobs.store import ChunkToAdd, Store
from api.rows import Row, RowDecoder

ROWS_AT_ONCE = 256  # decoded without a pause, which takes some 0.5 ms: nobody else is held up for longer
_MAX_CHUNK_BYTES = 4 * 1024 * 1024
_READ_ON_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    rows: int
    body_bytes: int
    chunk_rows: int


class Intake:
    """One upload."""

    def __init__(
        self, store: Store, job: NewJob, decoder: RowDecoder, format: Format, limits: Limits, *, parameters: bytes
    ) -> None:
        """
        Args:
            decoder: of the job's model, for at least `ROWS_AT_ONCE` rows at a time.
            parameters: what else tells this request from others; see `jobs.request_digest`.
        """
        self._store = store
        self._job = job
        self._decode = decoder.many
        self._format = format
        self._limits = limits
        self._digest = hashlib.sha256(parameters)
        self._body_bytes = 0
        self._rows = 0  # checked so far
        self._filling: list[Row] = []  # the chunk
        self._filling_bytes = 0
        self._first_row = 0  # of that chunk
        self._chunks = 0
        self._is_created = False

    async def take(self, pieces: AsyncIterator[bytes]) -> tuple[NewJob | None, bytes]:
        """Reads the upload to its end. Gives None where the key of the job belongs to another one already; and the
        digest of what was asked.

        Raises:
            InvalidRequest, InvalidRows, TooManyRows, BodyTooLarge: and nothing is left of the job.
            IdempotencyKeyInUse: another upload with the job's key is under way.
            JobsUnavailable: Postgres is away.
        """
        try:
            is_new = True
            async for piece in pieces:
                self._count(piece)
                if is_new:
                    is_new = await self._put(self._cut(self._format.feed, piece))
            if is_new:
                is_new = await self._put(self._cut(self._format.end)) and await self._accept()
        except BaseException as error:
            if self._is_created:
                await asyncio.shield(self._store.forget(self._job.id))
            if isinstance(error, ServingError):
                await self._read_on(pieces)
            raise
        return self._job if is_new else None, self._digest.digest()

    async def _read_on(self, pieces: AsyncIterator[bytes]) -> None:
        """Hanging up on who still sends may take the answer away from him, so the rest is read, to some length."""
        left = _READ_ON_BYTES
        async for piece in pieces:
            left -= len(piece)
            if left < 0:
                return

    def _count(self, piece: bytes) -> None:
        self._body_bytes += len(piece)
        if self._body_bytes > self._limits.body_bytes:
            raise BodyTooLarge(f"expected a body of at most {self._limits.body_bytes} bytes, got more")
        self._digest.update(piece)

    def _cut(self, cut: Callable[..., list[bytes]], *arguments: bytes) -> list[bytes]:
        try:
            return cut(*arguments)
        except InvalidRows as error:
            raise InvalidRows(str(error).replace("(NEXT)", f"(row {self._rows})")) from error

    async def _put(self, texts: list[bytes]) -> bool:
        """False once the job turned out not to be new."""
        for at in range(0, len(texts), ROWS_AT_ONCE):
            begun = time.monotonic()
            some = texts[at : at + ROWS_AT_ONCE]
            if self._rows + len(some) > self._limits.rows:
                raise TooManyRows(f"expected at most {self._limits.rows} rows in a job, got more")
            checked = check(self._decode, some, self._rows)
            self._rows += len(some)
            for row in checked:
                self._filling.append(row)
                self._filling_bytes += len(row.canonical) + len(row.text)
                is_full = len(self._filling) == self._limits.chunk_rows or self._filling_bytes > _MAX_CHUNK_BYTES
                if is_full and not await self._flush():
                    return False
            # As long as this took, others may run: an upload takes half of a replica's time at most.
            await asyncio.sleep(time.monotonic() - begun)
        return True

    async def _flush(self) -> bool:
        async with self._store.transaction() as connection:
            if not self._is_created and not await self._store.create(connection, self._job):
                return False
            await self._store.add(connection, self._job, self._chunk())
        self._is_created = True
        self._first_row += len(self._filling)
        self._filling, self._filling_bytes = [], 0
        self._chunks += 1
        return True

    async def _accept(self) -> bool:
        """The rest, and that it is all: in one transaction, which for a small job is the only one."""
        if not self._rows:
            raise InvalidRequest("expected at least 1 row, got 0")
        async with self._store.transaction() as connection:
            if not self._is_created and not await self._store.create(connection, self._job):
                return False
            chunks = self._chunks
            if self._filling:
                await self._store.add(connection, self._job, self._chunk())
                chunks += 1
            await self._store.accept(connection, self._job, chunks, self._digest.digest())
        return True

    def _chunk(self) -> ChunkToAdd:
        return ChunkToAdd(self._chunks, self._first_row, len(self._filling), pack(self._filling))


def check(decode: Callable[[bytes], list[Row]], texts: list[bytes], first: int) -> list[Row]:
    """The rows as they are to be kept. Raises InvalidRows, which names the first that does not fit by its index."""
    brackets = texts[0].count(b"[")
    try:
        rows = decode(b'{"instances":[%b]}' % b",".join(texts))
        # Together they may be well formed where one by one they are not: `[1,2` and `3]`.
        if len(rows) == len(texts) and all(text[:1] == b"[" and text.count(b"[") == brackets for text in texts):
            return rows
    except (InvalidRequest, InvalidRows):
        pass
    for index, text in enumerate(texts, first):
        try:
            if len(decode(b'{"instances":[%b]}' % text)) != 1:
                raise InvalidRows("expected one row, got several")
        except InvalidRequest as error:
            raise InvalidRows(f"expected a list of numbers, got something else (row {index})") from error
        except InvalidRows as error:
            message = str(error).replace("instances[0]", f"row {index}")
            raise InvalidRows(message if f"row {index}" in message else f"{message} (row {index})") from error
    raise InvalidRows(f"expected rows of one shape (rows {first} to {first + len(texts) - 1})")
