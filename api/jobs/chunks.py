"""What workers do to chunks in Postgres: publish, take, settle and give up. Whatever the broker did, a chunk is settled
once: who takes it counts its attempt up, and who comes back with an older one is refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from api.jobs.database import Connection, Database
from api.jobs.job import Hint
from api.jobs.pace import Pace
from api.jobs.store import CHANNEL
from api.prediction_log import statements

logger = logging.getLogger(__name__)

_SETTLED = (
    "UPDATE jobs SET chunks_left = chunks_left - 1, rows_done = rows_done + %(rows)s,"
    " rows_failed = rows_failed + %(failed)s, chunks_dead = chunks_dead + %(dead)s, progressed_at = now(),"
    " state = CASE WHEN chunks_left > 1 THEN 'running' WHEN chunks_dead + %(dead)s > 0 THEN 'failed' ELSE 'done' END,"
    " finished_at = CASE WHEN chunks_left = 1 THEN now() END,"
    " callback_state = CASE WHEN chunks_left = 1 AND callback_url IS NOT NULL THEN 'due' END,"
    " callback_due_at = CASE WHEN chunks_left = 1 THEN now() END, callback_attempts = 0"
    " WHERE id = %(job)s AND state IN ('queued', 'running')"
)

# The end of a job is durable when it is told, and with it all that was committed before.
_DURABLE_IF_LAST = (
    " RETURNING CASE WHEN chunks_left = 0 THEN set_config('synchronous_commit', 'on', true) END AS durable"
)

_HINTED = (
    "unnest(%(jobs)s::uuid[], %(chunks)s::int[]) AS hint (job, chunk) WHERE job_id = hint.job AND number = hint.chunk"
)
_PUBLISHED = (
    "UPDATE job_chunks SET state = 'published', due_at = now() + %(seconds)s * interval '1 s'"  # noqa: S608 - our own
    f" FROM {_HINTED} AND state = 'ready'"
)
_UNPUBLISHED = f"UPDATE job_chunks SET state = 'ready', due_at = now() FROM {_HINTED} AND state = 'published'"  # noqa: S608
_STILL_DEAD = f"SELECT job_id, number FROM job_chunks, {_HINTED} AND state = 'dead'"  # noqa: S608

# See prediction_log/link.py: its name, and its one statement. clock_timestamp, as now() is the transaction's beginning.
_PREDICTIONS_COME = (
    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'shoal'"
    " AND query LIKE %s AND state_change > clock_timestamp() - interval '1 s') AS come"
)


class Taken(NamedTuple):
    """A chunk that is this worker's to answer, until its lease ends."""

    job: UUID
    number: int
    attempt: int
    attempts_left: int
    first_row: int
    rows: int
    input: bytes
    model: str
    version: str
    created_at: datetime
    request_id: str


class Backlog(NamedTuple):
    """What is not settled yet, of all workers together."""

    waiting_chunks: int
    waiting_rows: int
    running_chunks: int
    dead_chunks: int
    oldest_seconds: float
    """Since the oldest job among these was accepted, or last got on; 0 where there is none."""


class Stale(Exception):
    """The chunk is not this worker's any more: taken by another one, cancelled, or settled. Nothing was written."""


class Chunks:
    def __init__(self, database: Database, *, lease_seconds: float, redeliver_seconds: float) -> None:
        """
        Args:
            lease_seconds: how long a chunk is its worker's without a sign of life.
            redeliver_seconds: after which a message that nobody took counts as lost.
        """
        self._database = database
        self._lease_seconds = lease_seconds
        self._redeliver_seconds = redeliver_seconds

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """For what may be forgotten: who has which chunk, and what was published. It is then found to be lost, and done
        again. The ends of jobs may not: see `settle` and `fail`."""
        return self._database.transaction(waits_for_disk=False)

    # --- publishing ---------------------------------------------------------------------------------------------------
    async def ready(self, connection: Connection, most_out: int) -> list[Hint]:
        """What is to be published now, the most urgent first; they stay locked until the transaction ends.

        most_out: messages of one priority, or a higher one, that may wait in the broker. The rest waits here, where a
        more urgent job passes it by.
        """
        cursor = await connection.execute(
            "WITH waits AS (SELECT priority, count(*) AS chunks FROM job_chunks WHERE state = 'published' GROUP BY 1),"
            " room AS (SELECT p AS priority, %(most)s - coalesce(sum(chunks), 0) AS chunks"
            "  FROM generate_series(0, 2) AS p LEFT JOIN waits ON waits.priority >= p GROUP BY 1)"
            " SELECT picked.* FROM room CROSS JOIN LATERAL (SELECT job_id, number, priority FROM job_chunks"
            "  WHERE state = 'ready' AND due_at <= now() AND priority = room.priority"
            "  ORDER BY turn, job_id, number LIMIT greatest(room.chunks, 0) FOR UPDATE SKIP LOCKED) AS picked"
            " ORDER BY picked.priority DESC",
            {"most": most_out},
        )
        return [Hint(row["job_id"], row["number"], row["priority"]) for row in await cursor.fetchall()]

    async def published(self, connection: Connection, hints: Sequence[Hint]) -> None:
        await connection.execute(
            _PUBLISHED.encode(),
            {"seconds": self._redeliver_seconds} | _columns(hints),
        )

    async def unpublish(self, hints: Sequence[Hint]) -> None:
        """Makes ready again what was published and is not to be waited for: its messages are acknowledged untaken."""
        async with self.transaction() as connection:
            await connection.execute(_UNPUBLISHED.encode(), _columns(hints))
            await connection.execute(f"NOTIFY {CHANNEL}")

    async def recover(self) -> int:
        """Makes ready again what was published or taken, and not heard of since. Gives how many."""
        async with self.transaction() as connection:
            cursor = await connection.execute(
                "UPDATE job_chunks SET state = 'ready', due_at = now() WHERE (job_id, number) IN (SELECT job_id, number"
                " FROM job_chunks WHERE state IN ('published', 'running') AND due_at < now() ORDER BY job_id, number"
                " FOR UPDATE SKIP LOCKED)"
            )
            return cursor.rowcount

    # --- answering ----------------------------------------------------------------------------------------------------
    async def take(self, hint: Hint, *, is_redelivered: bool) -> Taken | None:
        """The chunk, if it is to be answered; None if it is settled, cancelled, or another worker has it.

        is_redelivered: the broker says that whoever got it before is gone.
        """
        async with self.transaction() as connection:
            cursor = await connection.execute(
                "UPDATE job_chunks AS c SET state = 'running', attempt = attempt + 1,"
                " attempts_left = attempts_left - 1, due_at = now() + %(lease)s * interval '1 s' FROM jobs AS j"
                " WHERE c.job_id = %(job)s AND c.number = %(chunk)s AND j.id = c.job_id AND (c.state IN ('ready',"
                " 'published') OR c.state = 'running' AND (%(redelivered)s OR c.due_at < now()))"
                " RETURNING c.job_id AS job, c.number, c.attempt, c.attempts_left, c.first_row, c.rows, c.input,"
                " j.model, j.version, j.created_at, j.request_id, j.started_at",
                {
                    "lease": self._lease_seconds, "job": hint.job, "chunk": hint.chunk, "redelivered": is_redelivered,
                },
            )  # fmt: skip
            row = await cursor.fetchone()
            if row is None:
                return None
            if row.pop("started_at") is None:
                await connection.execute(
                    "UPDATE jobs SET state = 'running', started_at = now(), progressed_at = now()"
                    " WHERE id = %s AND state = 'queued'",
                    (hint.job,),
                )
        return Taken(**row)

    async def renew(self, taken: Sequence[Taken]) -> None:
        """Prolongs the leases of those that are still this worker's."""
        async with self.transaction() as connection:
            await connection.execute(
                "UPDATE job_chunks SET due_at = now() + %s * interval '1 s'"
                " FROM unnest(%s::uuid[], %s::int[], %s::int[]) AS t (job, chunk, attempt)"
                " WHERE job_id = t.job AND number = t.chunk AND job_chunks.attempt = t.attempt AND state = 'running'",
                (
                    self._lease_seconds, [each.job for each in taken], [each.number for each in taken],
                    [each.attempt for each in taken],
                ),
            )  # fmt: skip

    async def settle(
        self, taken: Taken, predictions: Sequence[bytes], errors: Sequence[dict[str, Any]], pace: Pace
    ) -> None:
        """Writes the rows' predictions, packed, and that the chunk is done: all or nothing. Raises Stale."""
        async with self.transaction() as connection:
            cursor = await connection.execute(
                "UPDATE job_chunks SET state = 'done', input = NULL, errors = %s, last_error = NULL"
                " WHERE job_id = %s AND number = %s AND attempt = %s AND state = 'running'",
                (Jsonb(errors) if errors else None, taken.job, taken.number, taken.attempt),
            )
            if cursor.rowcount != 1:
                raise Stale
            async for some in pace.pieces(predictions, len(predictions)):
                async with pace.piece(), connection.cursor().copy(statements.COPY) as copy:
                    await copy.write(statements.copy_data(some))
            # Last, as all workers of a job wait for one another here.
            await connection.execute(
                _SETTLED + _DURABLE_IF_LAST,
                {"rows": taken.rows, "failed": len(errors), "dead": 0, "job": taken.job},
            )

    async def fail(self, taken: Taken, reason: str, *, retry_seconds: float) -> bool:
        """Notes that an attempt failed: another one follows after a while, or the chunk is given up. Whether it is."""
        is_dead = taken.attempts_left <= 0
        async with self.transaction() as connection:
            cursor = await connection.execute(
                "UPDATE job_chunks SET state = %s, last_error = %s, due_at = now() + %s * interval '1 s'"
                " WHERE job_id = %s AND number = %s AND attempt = %s AND state = 'running'",
                ("dead" if is_dead else "ready", reason, retry_seconds, taken.job, taken.number, taken.attempt),
            )
            if is_dead and cursor.rowcount == 1:
                await connection.execute(
                    _SETTLED + _DURABLE_IF_LAST, {"rows": 0, "failed": 0, "dead": 1, "job": taken.job}
                )
        return is_dead

    async def release(self, taken: Taken) -> None:
        """Gives a chunk back unanswered; the attempt does not count."""
        async with self.transaction() as connection:
            await connection.execute(
                "UPDATE job_chunks SET state = 'ready', attempts_left = attempts_left + 1, due_at = now()"
                " WHERE job_id = %s AND number = %s AND attempt = %s AND state = 'running'",
                (taken.job, taken.number, taken.attempt),
            )
            await connection.execute(f"NOTIFY {CHANNEL}")

    async def dead_among(self, hints: Sequence[Hint]) -> set[tuple[UUID, int]]:
        """Those that are given up still."""
        async with self.transaction() as connection:
            cursor = await connection.execute(_STILL_DEAD.encode(), _columns(hints))
            return {(row["job_id"], row["number"]) for row in await cursor.fetchall()}

    async def predictions_come(self) -> bool:
        """Whether replicas have written predictions to the log in the last second.

        It is the connections of their logs that show it, so that replicas need not tell anybody, and no request waits
        for it; rows of jobs are written by connections of another name.
        """
        async with self.transaction() as connection:
            cursor = await connection.execute(_PREDICTIONS_COME, (f"{statements.COPY.decode()}%",))
            row = await cursor.fetchone()
        return bool(row and row["come"])

    # --- looking after ------------------------------------------------------------------------------------------------
    async def backlog(self) -> Backlog:
        async with self.transaction() as connection:
            cursor = await connection.execute(
                "SELECT (count(*) FILTER (WHERE c.state IN ('ready', 'published')))::int AS waiting_chunks,"
                " coalesce(sum(c.rows) FILTER (WHERE c.state IN ('ready', 'published')), 0)::bigint AS waiting_rows,"
                " (count(*) FILTER (WHERE c.state = 'running'))::int AS running_chunks,"
                " (count(*) FILTER (WHERE c.state = 'dead'))::int AS dead_chunks,"
                " coalesce(extract(epoch FROM now() - min(j.progressed_at) FILTER (WHERE c.state <> 'dead')), 0)::float"
                " AS oldest_seconds FROM job_chunks AS c JOIN jobs AS j ON j.id = c.job_id"
                " WHERE c.state IN ('ready', 'published', 'running', 'dead')"
            )
            row = await cursor.fetchone()
        assert row is not None  # noqa: S101  an aggregate has a row
        return Backlog(**row)

    async def tidy(self, *, retention_days: int, broken_off_seconds: float) -> int:
        """Removes uploads that broke off, and jobs whose predictions the log has dropped. Gives how many."""
        async with self.transaction() as connection:
            cursor = await connection.execute(
                "DELETE FROM jobs WHERE state = 'receiving' AND progressed_at < now() - %s * interval '1 s'"
                " OR state IN ('done', 'failed', 'cancelled') AND created_at < current_date - %s",
                (broken_off_seconds, retention_days),
            )
            return cursor.rowcount


def _columns(hints: Sequence[Hint]) -> dict[str, Any]:
    """For `_HINTED`."""
    return {"jobs": [hint.job for hint in hints], "chunks": [hint.chunk for hint in hints]}
