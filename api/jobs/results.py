"""The answers of a job, in the order of its rows, read from the log as they are sent."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from psycopg.rows import tuple_row

from api.jobs.database import Database
from api.jobs.job import Row, created_at_of, first_row_id
from api.jobs.store import Store

_ROWS_AT_ONCE = 500  # made into bytes without a pause, some 2 ms

_encode = msgspec.json.Encoder().encode
# The timestamp too: it says in which partition to look.
_QUERY = (
    b"SELECT id, prediction::text, label, confidence FROM predictions"
    b" WHERE timestamp = %s AND id >= %s AND id <= %s ORDER BY id LIMIT %s"
)


class Answer(NamedTuple):
    """Of one row: a prediction, or an error in its place."""

    row: int
    id: UUID | None
    prediction: str | None
    """JSON."""
    label: str | None
    confidence: float | None
    error: str | None = None
    detail: str | None = None


class Results:
    def __init__(self, store: Store, database: Database) -> None:
        self._store = store
        self._database = database

    async def pieces(
        self, job: UUID, first_row: int, limit: int | None, encode: Callable[[Iterable[Answer]], bytes]
    ) -> AsyncIterator[bytes]:
        """Encoded answers, some hundred at a time; of rows that are not settled, nothing.

        Raises UnknownJob, JobsUnavailable.
        """
        last_row = 2**31 if limit is None else first_row + limit - 1
        for chunk in await self._store.chunks(job, first_row):
            first = max(chunk["first_row"], first_row)
            last = min(chunk["first_row"] + chunk["rows"] - 1, last_row)
            if first > last:
                return
            if chunk["state"] == "dead":
                detail = "its chunk was given up; see the job's dead_chunks"
                yield encode(Answer(row, None, None, None, None, "given-up", detail) for row in range(first, last + 1))
            elif chunk["state"] == "done":
                async for answers in self._answers(job, first, last, chunk):
                    yield encode(answers)

    async def _answers(self, job: UUID, first: int, last: int, chunk: Row) -> AsyncIterator[list[Answer]]:
        errors = {error["row"]: error for error in chunk["errors"] or ()}
        base = first_row_id(job)
        while first <= last:
            async with self._database.transaction() as connection, connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(
                    _QUERY,
                    (created_at_of(job), UUID(int=base + first), UUID(int=base + last), _ROWS_AT_ONCE),
                    prepare=False,  # planned for these values: that is what leaves out partitions
                )
                answers = [Answer(id.int - base, id, *rest) for id, *rest in await cursor.fetchall()]
            until = answers[-1].row if len(answers) == _ROWS_AT_ONCE else last
            failed = [_failed(errors[row]) for row in errors if first <= row <= until]
            yield sorted([*answers, *failed]) if failed else answers
            first = until + 1


def _failed(error: Any) -> Answer:
    return Answer(error["row"], None, None, None, None, error["type"], error["detail"])


def ndjson(answers: Iterable[Answer]) -> bytes:
    """A line each, as /predict/batch has them, and the index of its row."""
    return b"".join(map(_line, answers))


def _line(answer: Answer) -> bytes:
    if answer.error is not None:
        return b'{"row":%d,"error":%b,"detail":%b}\n' % (answer.row, _encode(answer.error), _encode(answer.detail))
    label = b"" if answer.label is None else b',"label":%b' % _encode(answer.label)
    return b'{"row":%d,"id":"%b","prediction":%b%b,"confidence":%b}\n' % (
        answer.row,
        str(answer.id).encode(),
        (answer.prediction or "null").encode(),
        label,
        _encode(answer.confidence),
    )


CSV_HEAD = b"row,id,prediction,label,confidence,error,detail\n"


def csv_lines(answers: Iterable[Answer]) -> bytes:
    """Without their head."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(answers)
    return text.getvalue().encode()
