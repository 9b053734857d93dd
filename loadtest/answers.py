"""Is it the right answer? A wrong one is a failure, whatever its status says.

Each check returns what is wrong in a few words that hold no values, so that Locust counts like failures together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import msgspec

from loadtest.payloads import Model

TIERS = ("local", "redis", "coalesced", "miss")
"""Values of X-Cache, nearest first; `mixed` besides, for a batch whose rows differ."""

# A row's answer may come from a run by itself or in a batch, where a sum is taken in another order.
CONFIDENCE_TOLERANCE = 1e-4


class RowAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: UUID
    prediction: int
    label: str
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)]
    cached: bool


class SingleAnswer(RowAnswer, frozen=True, forbid_unknown_fields=True):
    model: str
    version: str


class BatchAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    predictions: list[RowAnswer]
    model: str
    version: str


class LoggedAnswer(msgspec.Struct, frozen=True):
    """A row of the prediction log, as far as it must agree with the answer that was given."""

    id: UUID
    model: str
    version: str
    prediction: int
    label: str
    confidence: float
    request_id: str


class Page(msgspec.Struct, frozen=True):
    predictions: list[LoggedAnswer]
    next_cursor: str | None


class Job(msgspec.Struct, frozen=True):
    """How far a job is, as much of it as a client goes by."""

    id: UUID
    state: str
    finished_at: str | None


class JobAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one row of a job; one that failed has other fields, and is no answer."""

    row: int
    id: UUID
    prediction: int
    label: str
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Checker:
    """Compares answers with the question and with earlier ones. One for all users of a process."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str, int], RowAnswer] = {}
        self._labels: dict[tuple[str, str, int], str] = {}

    def single(self, body: bytes, model: Model, number: int | None, tier: str | None) -> tuple[SingleAnswer, str]:
        """The answer, and what is wrong with it or an empty string.

        Args:
            number: of the row, so that equal rows are known; None if it is sent once.
            tier: the header X-Cache.
        Raises:
            msgspec.DecodeError: it is no answer at all.
        """
        answer = msgspec.json.decode(body, type=SingleAnswer)
        return answer, (
            self._row(answer, model, answer.model, answer.version, number)
            or _header(tier, [answer])
            or ("" if tier in TIERS else "X-Cache is not one of the tiers")
        )

    def batch(self, body: bytes, model: Model, numbers: Sequence[int | None], tier: str | None) -> str:
        """As `single`, for the rows of a batch in their order."""
        answer = msgspec.json.decode(body, type=BatchAnswer)
        if len(answer.predictions) != len(numbers):
            return "another number of answers than rows"
        for row, number in zip(answer.predictions, numbers, strict=True):
            if wrong := self._row(row, model, answer.model, answer.version, number):
                return wrong
        return _header(tier, answer.predictions)

    def _row(self, answer: RowAnswer, model: Model, name: str, version: str, number: int | None) -> str:
        if name != model.name:
            return "another model answered"
        if not 0 <= answer.prediction < model.classes:
            return "the class is not one of the model's"
        if self._labels.setdefault((name, version, answer.prediction), answer.label) != answer.label:
            return "one class has two labels"
        if number is None:
            return ""
        first = self._first.setdefault((name, version, number), answer)
        return "" if _agree(first, answer) else "the same row was answered differently before"


def logged(body: bytes, answer: SingleAnswer, request_id: str) -> str:
    """Whether the log has what the caller was told.

    Raises:
        msgspec.DecodeError: it is no row of the log.
    """
    row = msgspec.json.decode(body, type=LoggedAnswer)
    same = (row.id, row.model, row.version, row.request_id) == (answer.id, answer.model, answer.version, request_id)
    return "" if same and _agree(row, answer) else "the log holds another answer than was given"


def job_answers(body: bytes, rows: int) -> str:
    """Whether each row of a job has its answer, in their order.

    Raises:
        msgspec.DecodeError: something else than an answer is among them.
    """
    found = msgspec.json.decode(b"[%b]" % b",".join(body.splitlines()), type=list[JobAnswer])
    return "" if [answer.row for answer in found] == list(range(rows)) else "rows of the job have no answer"


def page(body: bytes, model: Model, rows: int) -> str:
    """Whether it is a page of at most so many rows of this model, newest first.

    Raises:
        msgspec.DecodeError: it is no page.
    """
    found = msgspec.json.decode(body, type=Page).predictions
    if len(found) > rows or any(row.model != model.name for row in found):
        return "the page holds what was not asked for"
    # The ids are UUIDv7: the first 48 bits are milliseconds.
    times = [row.id.int >> 80 for row in found]
    return "" if times == sorted(times, reverse=True) else "the page is not sorted by time"


def _agree(one: RowAnswer | LoggedAnswer, two: RowAnswer) -> bool:
    return (
        one.prediction == two.prediction
        and one.label == two.label
        and abs(one.confidence - two.confidence) <= CONFIDENCE_TOLERANCE
    )


def _header(tier: str | None, rows: Sequence[RowAnswer]) -> str:
    """X-Cache against what the body says. A row that was coalesced is not `cached`: the model ran while it waited."""
    cached = {row.cached for row in rows}
    if tier == "mixed":
        return ""
    if cached != {tier in ("local", "redis")}:
        return "X-Cache and `cached` disagree"
    return ""
