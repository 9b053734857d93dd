"""Tells those who asked for it that their job has ended: signed, again and again if need be, with a record of it.

Signed as https://www.standardwebhooks.com says, so that there are libraries that check it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from typing import Any

import msgspec

from api import metrics
from api.errors import JobsUnavailable
from api.jobs.callbacks import CallbackPolicy
from api.jobs.database import Database
from api.jobs.job import Row
from api.jobs.post import NotDelivered, post

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1
_AT_ONCE = 8
_FIRST_PAUSE_SECONDS = 5
_LONGEST_PAUSE_SECONDS = 3600

_DUE = (
    "UPDATE jobs SET callback_due_at = now() + %s * interval '1 s' WHERE id IN (SELECT id FROM jobs"
    " WHERE callback_state = 'due' AND callback_due_at <= now() ORDER BY callback_due_at LIMIT %s"
    " FOR UPDATE SKIP LOCKED)"
    " RETURNING id, state, model, version, created_at, finished_at, rows, rows_done, rows_failed, callback_url,"
    " callback_attempts"
)


class Courier:
    """Any number may run; what one has in hand, the others leave out."""

    def __init__(
        self, database: Database, *, secret: str, policy: CallbackPolicy, timeout_seconds: float, max_attempts: int
    ) -> None:
        self._database = database
        self._key = signing_key(secret)
        self._policy = policy
        self._timeout_seconds = timeout_seconds
        self._max_attempts = max_attempts

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                if await self.deliver_due():
                    continue
            except JobsUnavailable:
                pass  # they are still due when Postgres is back
            except Exception:  # whatever it was: others wait for their callbacks
                logger.exception("callbacks failed, and go on")
            await asyncio.sleep(_LOOK_SECONDS)

    async def deliver_due(self) -> int:
        """One attempt at each that is due. Gives how many those were."""
        async with self._database.transaction() as connection:
            # Who dies with one in hand leaves it to the others, after a while.
            cursor = await connection.execute(_DUE, (self._timeout_seconds + 30, _AT_ONCE))
            due = await cursor.fetchall()
        await asyncio.gather(*map(self._attempt, due))
        return len(due)

    async def _attempt(self, job: Row) -> None:
        body = payload(job)
        sent_at = int(time.time())
        # The same at each attempt, so that a receiver knows them for one; another one where a job was requeued and so
        # ends again.
        message_id = f"{job['id']}-{int(job['finished_at'].timestamp() * 1000)}"
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Shoal",
            "webhook-id": message_id,
            "webhook-timestamp": str(sent_at),
            "webhook-signature": sign(self._key, message_id, sent_at, body),
        }
        begun = time.monotonic()
        status: int | None = None
        error: str | None = None
        try:
            status = await post(
                job["callback_url"],
                headers,
                body,
                allows=self._policy.allows,
                timeout_seconds=self._timeout_seconds,
            )
            if not 200 <= status < 300:
                error = f"expected a status of 2xx, got {status}"
        except NotDelivered as reason:
            error = str(reason)
        await self._record(job, time.monotonic() - begun, status, error)

    async def _record(self, job: Row, seconds: float, status: int | None, error: str | None) -> None:
        attempt = job["callback_attempts"] + 1
        state = "delivered" if error is None else "given up" if attempt >= self._max_attempts else "due"
        metrics.JOB_CALLBACKS.labels({"due": "failed", "given up": "given-up"}.get(state, state)).inc()
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), _LONGEST_PAUSE_SECONDS)
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                "UPDATE jobs SET callback_state = %s, callback_attempts = %s,"
                " callback_due_at = now() + %s * interval '1 s'"
                " WHERE id = %s AND callback_attempts = %s AND callback_state = 'due'",
                (state, attempt, pause, job["id"], job["callback_attempts"]),
            )
            if cursor.rowcount:
                await connection.execute(
                    "INSERT INTO job_callbacks (job_id, attempt, seconds, status, error) VALUES (%s, %s, %s, %s, %s)"
                    # From before it was requeued, and so ended twice.
                    " ON CONFLICT (job_id, attempt) DO UPDATE SET attempted_at = now(), seconds = EXCLUDED.seconds,"
                    " status = EXCLUDED.status, error = EXCLUDED.error",
                    (job["id"], attempt, seconds, status, error),
                )


def payload(job: Row) -> bytes:
    """What is sent: enough to know what has ended and how; the answers are fetched."""
    shown: dict[str, Any] = {name: value for name, value in job.items() if not name.startswith("callback_")}
    return msgspec.json.encode({"type": f"job.{job['state']}", "job": shown, "results": f"/jobs/{job['id']}/results"})


def signing_key(secret: str) -> bytes:
    """`whsec_` and base64, as Standard Webhooks has it, or any text."""
    if secret.startswith("whsec_"):
        return base64.b64decode(secret.removeprefix("whsec_"))
    return secret.encode()


def sign(key: bytes, message_id: str, sent_at: int, body: bytes) -> str:
    """sent_at: seconds since 1970."""
    signature = hmac.digest(key, b"%b.%d.%b" % (message_id.encode(), sent_at, body), hashlib.sha256)
    return f"v1,{base64.b64encode(signature).decode()}"
