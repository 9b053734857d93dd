"""What replicas do to jobs in Postgres: take them in, show them, cancel and requeue them."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from api.errors import (
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    JobFinished,
    JobsUnavailable,
    JobUnfinished,
    NothingToRequeue,
    UnknownJob,
)  # fmt: skip
from api.jobs.database import Connection, Database
from api.jobs.job import FINISHED, NewJob, Row

logger = logging.getLogger(__name__)

CHANNEL = "shoal_jobs"
"""On which Postgres says that chunks are ready to be published."""

_STALE_SECONDS = 15  # without a row, after which an upload has broken off: nginx gives a client 10 s between two reads
_ERRORS_SHOWN = 100

_COLUMNS = (
    "id, created_at, state, model, version, priority, rows, rows_done, rows_failed, chunks, chunks_left, chunks_dead,"
    " started_at, progressed_at, finished_at, callback_url, callback_state, callback_attempts, now() AS now"
)


_SELECT = f"SELECT {_COLUMNS} FROM jobs WHERE state <> 'receiving' AND "  # noqa: S608 - our own constants
_BY_KEY = f"SELECT {_COLUMNS}, request_digest FROM jobs WHERE idempotency_key = %s"  # noqa: S608


class ChunkToAdd(NamedTuple):
    number: int
    first_row: int
    rows: int
    input: bytes


class Store:
    def __init__(self, database: Database, *, max_attempts: int) -> None:
        """max_attempts: that a chunk gets before it is given up."""
        self._database = database
        self._max_attempts = max_attempts

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        return self._database.transaction()

    # --- taking in ----------------------------------------------------------------------------------------------------
    async def create(self, connection: Connection, job: NewJob) -> bool:
        """Whether it is new: not if the job with its key is there already. Raises IdempotencyKeyInUse."""
        if job.idempotency_key is not None:
            # An upload that broke off with its replica, and so could not be forgotten.
            await connection.execute(
                "DELETE FROM jobs WHERE idempotency_key = %s AND state = 'receiving'"
                " AND progressed_at < now() - %s * interval '1 s'",
                (job.idempotency_key, _STALE_SECONDS),
            )
        cursor = await connection.execute(
            "INSERT INTO jobs (id, created_at, model, version, priority, request_id, idempotency_key, callback_url)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (idempotency_key) DO NOTHING RETURNING id",
            (
                job.id, job.created_at, job.model, job.version, job.priority, job.request_id, job.idempotency_key,
                job.callback_url,
            ),
        )  # fmt: skip
        if await cursor.fetchone() is not None:
            return True
        cursor = await connection.execute("SELECT state FROM jobs WHERE idempotency_key = %s", (job.idempotency_key,))
        row = await cursor.fetchone()
        if row is None or row["state"] == "receiving":
            raise IdempotencyKeyInUse("a request with this Idempotency-Key is still arriving")
        return False

    async def add(self, connection: Connection, job: NewJob, chunk: ChunkToAdd) -> None:
        try:
            await connection.execute(
                "INSERT INTO job_chunks (job_id, number, first_row, rows, priority, attempts_left, input)"
                " VALUES (%s, %s, %s, %s, %s, %s, %b)",
                (job.id, chunk.number, chunk.first_row, chunk.rows, job.priority, self._max_attempts, chunk.input),
            )
        except psycopg.errors.ForeignKeyViolation as error:
            raise IdempotencyKeyInUse("the upload stood still, and another one has taken over its key") from error
        await connection.execute(
            "UPDATE jobs SET rows = %s, progressed_at = now() WHERE id = %s", (chunk.first_row + chunk.rows, job.id)
        )

    async def accept(self, connection: Connection, job: NewJob, chunks: int, digest: bytes) -> None:
        cursor = await connection.execute(
            "UPDATE jobs SET state = 'queued', chunks = %s, chunks_left = %s, request_digest = %b,"
            " progressed_at = now() WHERE id = %s AND state = 'receiving'",
            (chunks, chunks, digest, job.id),
        )
        if cursor.rowcount != 1:
            raise IdempotencyKeyInUse("the upload stood still, and another one has taken over its key")
        await connection.execute(
            "UPDATE job_chunks SET state = 'ready', due_at = now(), turn = now() + number * interval '0.1 s'"
            " WHERE job_id = %s",
            (job.id,),
        )
        await connection.execute(f"NOTIFY {CHANNEL}")

    async def forget(self, id: UUID) -> None:
        """A job whose upload failed. Where Postgres is away, whoever tidies up does it later."""
        try:
            async with self.transaction() as connection:
                await connection.execute("DELETE FROM jobs WHERE id = %s AND state = 'receiving'", (id,))
        except JobsUnavailable:
            logger.info("the upload of job %s is forgotten later", id)

    async def repeated(self, key: str, digest: bytes) -> Row:
        """The job that was made with the key. Raises IdempotencyKeyReused: by another request."""
        async with self.transaction() as connection:
            cursor = await connection.execute(_BY_KEY.encode(), (key,))
            row = await cursor.fetchone()
        if row is None:
            raise IdempotencyKeyInUse("the job with this Idempotency-Key has just been removed")
        if row["request_digest"] != digest:
            raise IdempotencyKeyReused(f"this Idempotency-Key made job {row['id']}, from another body or parameters")
        return row

    # --- showing ------------------------------------------------------------------------------------------------------
    async def get(self, id: UUID) -> Row:
        """With `errors`, `dead` and `callbacks`, lists of what there is of each. Raises UnknownJob."""
        async with self.transaction() as connection:
            # All of it as it was at one moment: else an attempt may be seen without what came of it.
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            row = await _one(connection, id)
            for name, query in (
                ("errors", _ERRORS), ("dead", _DEAD), ("callbacks", _CALLBACKS), ("attempts", _ATTEMPTS),
            ):  # fmt: skip
                row[name] = await (await connection.execute(query.encode(), (id,))).fetchall()
        return row

    async def look(self, ids: list[UUID]) -> list[Row]:
        """What progress is made of; nothing for an unknown one."""
        async with self.transaction() as connection:
            cursor = await connection.execute(f"{_SELECT} id = ANY(%s)".encode(), (ids,))
            return await cursor.fetchall()

    async def page(self, state: str | None, limit: int, before: UUID | None) -> list[Row]:
        """Newest first; `before` is the last of the page before."""
        async with self.transaction() as connection:
            cursor = await connection.execute(
                f"{_SELECT} (%(state)s::text IS NULL OR state = %(state)s)"
                " AND (%(before)s::uuid IS NULL OR id < %(before)s) ORDER BY id DESC LIMIT %(limit)s",
                {"state": state, "before": before, "limit": limit},
            )
            return await cursor.fetchall()

    async def chunks(self, id: UUID, first_row: int) -> list[Row]:
        """From that row on: number, first_row, rows, state, errors. Raises UnknownJob."""
        async with self.transaction() as connection:
            await _one(connection, id)
            cursor = await connection.execute(
                "SELECT number, first_row, rows, state, errors FROM job_chunks"
                " WHERE job_id = %s AND first_row + rows > %s ORDER BY number",
                (id, first_row),
            )
            return await cursor.fetchall()

    # --- changing -----------------------------------------------------------------------------------------------------
    async def cancel(self, id: UUID) -> Row:
        """Returns once no further row of it will be answered. Of a failed one, gives up what was given up: it is not
        counted any more. Raises UnknownJob, JobFinished."""
        async with self.transaction() as connection:
            # The chunks first, then the job: as those who commit a chunk do, else we could wait for each other.
            await connection.execute(
                "UPDATE job_chunks SET state = 'cancelled', input = NULL WHERE (job_id, number) IN"
                " (SELECT job_id, number FROM job_chunks WHERE job_id = %s"
                " AND state IN ('ready', 'published', 'running', 'dead') ORDER BY number FOR UPDATE)",
                (id,),
            )
            cursor = await connection.execute(
                "UPDATE jobs SET state = 'cancelled', finished_at = coalesce(finished_at, now()), chunks_left = 0,"
                " callback_state = CASE WHEN state = 'failed' THEN callback_state"  # it was reported then
                "  WHEN callback_url IS NOT NULL THEN 'due' END,"
                " callback_due_at = now() WHERE id = %s AND state IN ('queued', 'running', 'failed')",
                (id,),
            )
            row = await _one(connection, id)
            if cursor.rowcount == 0 and row["state"] != "cancelled":
                raise JobFinished(f"the job is {row['state']} already")
        return row

    async def requeue(self, id: UUID) -> Row:
        """Gives the chunks that were given up as many attempts as at first. Raises UnknownJob, NothingToRequeue."""
        async with self.transaction() as connection:
            cursor = await connection.execute(
                "UPDATE job_chunks SET state = 'ready', due_at = now(), attempts_left = %s"
                " WHERE job_id = %s AND state = 'dead'",
                (self._max_attempts, id),
            )
            row = await _one(connection, id)
            if row["state"] == "cancelled" or not cursor.rowcount:
                raise NothingToRequeue(f"no chunk of the job was given up; it is {row['state']}")
            await connection.execute(
                "UPDATE jobs SET state = 'running', finished_at = NULL, chunks_dead = chunks_dead - %s,"
                " chunks_left = chunks_left + %s, callback_state = NULL WHERE id = %s",
                (cursor.rowcount, cursor.rowcount, id),
            )
            await connection.execute(f"NOTIFY {CHANNEL}")
            return await _one(connection, id)

    async def finished(self, id: UUID) -> Row:
        """The job. Raises UnknownJob, JobUnfinished."""
        async with self.transaction() as connection:
            row = await _one(connection, id)
        if row["state"] not in FINISHED:
            raise JobUnfinished(
                f"the job is {row['state']}, {row['rows_done']} of {row['rows']} rows are done (partial=true: those)"
            )
        return row


_ERRORS = (
    "SELECT (error ->> 'row')::int AS row, error ->> 'type' AS type, error ->> 'detail' AS detail FROM job_chunks,"  # noqa: S608
    f" jsonb_array_elements(errors) AS error WHERE job_id = %s AND errors IS NOT NULL ORDER BY 1 LIMIT {_ERRORS_SHOWN}"
)
_DEAD = (
    "SELECT number, first_row, rows, attempt AS attempts, coalesce(last_error, '') AS error FROM job_chunks"
    " WHERE job_id = %s AND state = 'dead' ORDER BY number"
)
_CALLBACKS = (
    "SELECT attempt, attempted_at, seconds, status, error FROM job_callbacks WHERE job_id = %s ORDER BY attempt"
)
_ATTEMPTS = "SELECT coalesce(sum(attempt), 0)::int AS attempts FROM job_chunks WHERE job_id = %s"


async def _one(connection: Connection, id: UUID) -> dict[str, Any]:
    cursor = await connection.execute(f"{_SELECT} id = %s".encode(), (id,))
    row = await cursor.fetchone()
    if row is None:
        raise UnknownJob(f"expected the id of a job, got {id}")
    return row
