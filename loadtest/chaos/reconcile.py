"""Holds what clients were answered against what is in the log: each answer is exactly one row, equal in content."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg

from loadtest.chaos.ledger import BROKEN, PENDING, SILENT, Ledger
from loadtest.chaos.questions import Questions

STRANGERS = "stranger-"
"""Begins the ids of requests whose clients did not stay for the answer: whether they are in the log is all the same."""

_EXAMPLES = 5
# After these nobody can tell whether the request got through: a row may be there, or not. One of any other status but
# 200 was refused for good.
_UNKNOWN = {PENDING, BROKEN, SILENT, 502, 504}


class Logged(NamedTuple):
    """A row of `predictions`."""

    request_id: str
    id: UUID
    input_data: Any
    prediction: Any
    label: str | None
    confidence: float | None
    model: str
    version: str


class Answer(msgspec.Struct):
    """The body of a 200."""

    id: UUID
    prediction: int | float | list[float]
    confidence: float | None
    model: str
    version: str
    cached: bool
    label: str | None = None


class Question(NamedTuple):
    """A row and what was answered."""

    row: list[float]
    answer: Answer


Check = Callable[[Sequence[Question]], list[str]]
"""Says which answers are wrong; see oracle.py."""


@dataclass(slots=True)
class Reckoning:
    """What a load came to."""

    requests: int = 0
    answered: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    """Of those that were not answered with 200."""
    lost: int = 0
    """Answered, and not in the log."""
    duplicated: int = 0
    """In the log more than once."""
    altered: int = 0
    """In the log with other content than was asked or answered."""
    unasked: int = 0
    """In the log without a request, or though the request was refused."""
    wrong: int = 0
    """Answered with what the model does not say."""
    still_spooled: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return self.statuses.total()

    def blame(self, kind: str, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{kind}: {what}")


def reconcile(
    ledger: Ledger,
    questions: Questions,
    rows: Iterable[Logged],
    spooled: Iterable[UUID] = (),
    check: Check | None = None,
) -> Reckoning:
    """Compares a load that has ended with all rows of a log that had none but its own."""
    statuses = Counter(ledger.status)
    reckoning = Reckoning(requests=len(ledger), answered=statuses.pop(200, 0), statuses=statuses)
    times = bytearray(len(ledger))
    for row in rows:
        if row.request_id.startswith(STRANGERS):
            continue
        number = questions.number(row.request_id)
        if number is None or number >= len(ledger):
            reckoning.blame("unasked", f"{row} belongs to no request")
            continue
        times[number] = min(times[number] + 1, 255)
        _compare(reckoning, ledger, questions, number, row)
    waiting = set(spooled)
    reckoning.still_spooled = len(waiting)
    for number in ledger.numbers(200):
        if times[number] > 1:
            reckoning.blame("duplicated", f"{questions.request_id(number)} is there {times[number]} times")
        elif not times[number] and decode(ledger.bodies[number]).id not in waiting:
            reckoning.blame("lost", f"{questions.request_id(number)}: {ledger.bodies[number]!r}")
    if check is not None:
        for batch in _answers(ledger, questions):
            for wrong in check(batch):
                reckoning.blame("wrong", wrong)
    return reckoning


def _compare(reckoning: Reckoning, ledger: Ledger, questions: Questions, number: int, row: Logged) -> None:
    status = ledger.status[number]
    if row.input_data != questions.row(number):
        reckoning.blame("altered", f"{row} was asked about {questions.row(number)}")
    elif status == 200:
        answer = decode(ledger.bodies[number])
        said = (answer.id, answer.prediction, answer.label, answer.confidence, answer.model, answer.version)
        if said != (row.id, row.prediction, row.label, row.confidence, row.model, row.version):
            reckoning.blame("altered", f"{row} was answered with {ledger.bodies[number]!r}")
    elif status not in _UNKNOWN:
        reckoning.blame("unasked", f"{row} was refused with {status}")


def _answers(ledger: Ledger, questions: Questions, size: int = 4096) -> Iterator[list[Question]]:
    batch: list[Question] = []
    for number in ledger.numbers(200):
        batch.append(Question(questions.row(number), decode(ledger.bodies[number])))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


decode = msgspec.json.Decoder(Answer).decode


def logged(dsn: str, since: datetime | None = None) -> Iterator[Logged]:
    """All rows of the log, or those since then, a few thousand at a time."""
    columns = ", ".join(Logged._fields)
    with psycopg.connect(dsn) as connection, connection.cursor("chaos") as cursor:
        cursor.itersize = 5000
        query = f"SELECT {columns} FROM predictions WHERE timestamp >= %s"  # noqa: S608  names of our own
        cursor.execute(query.encode(), (since or "-infinity",))
        for row in cursor:
            yield Logged(*row)


def spooled(folder: Path) -> list[UUID]:
    """Ids of the rows that wait in the spool for Postgres."""
    path = folder / "spool.sqlite3"
    if not path.exists():
        return []
    connection = sqlite3.connect(path, timeout=10)
    try:
        return [UUID(bytes=id) for (id,) in connection.execute("SELECT id FROM spooled")]
    finally:
        connection.close()
