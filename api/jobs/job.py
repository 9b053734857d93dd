"""What a job is, and what its rows are called."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from api.prediction_log import uuid7

PRIORITIES = ("low", "normal", "high")
"""By the number that stands for them in Postgres."""

FINISHED = ("done", "failed", "cancelled")


class NewJob(NamedTuple):
    """What was asked, but for its rows."""

    id: UUID
    unix_ms: int
    model: str
    version: str
    priority: int
    request_id: str
    idempotency_key: str | None
    callback_url: str | None

    @property
    def created_at(self) -> datetime:
        return datetime.fromtimestamp(self.unix_ms / 1000, UTC)


class Hint(msgspec.Struct, frozen=True):
    """What goes through the broker: that a chunk waits. Everything else about it is in Postgres."""

    job: UUID
    chunk: int
    priority: int


encode_hint = msgspec.json.Encoder().encode
decode_hint = msgspec.json.Decoder(Hint).decode


def job_id(unix_ms: int, seed: bytes) -> UUID:
    """The same for the same request, as for single predictions."""
    return UUID(int=uuid7(unix_ms, b"job" + seed))


def first_row_id(job: UUID) -> int:
    """The id in `predictions` of row 0; the others count up from it, so a row that is answered twice has one id."""
    return uuid7(unix_ms_of(job), job.bytes)


def unix_ms_of(job: UUID) -> int:
    """When it was created."""
    return job.int >> 80


def created_at_of(job: UUID) -> datetime:
    return datetime.fromtimestamp(unix_ms_of(job) / 1000, UTC)


Row = dict[str, Any]
"""A row of Postgres, by column."""
