"""How packed rows get into `predictions`: SQL in bytes, as libpq takes it, and the data that COPY is sent."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from api.prediction_log.record import COLUMNS, COPY_HEADER, COPY_TRAILER

_columns = ", ".join(COLUMNS)

COPY = f"COPY predictions ({_columns}) FROM STDIN (FORMAT BINARY)".encode()
"""The fast way: fails as a whole if one of the rows is there already."""

# The way that leaves out what is there already, for retried requests and replays: by way of a table of the session.
STAGE = (
    b"SET client_min_messages = warning;"
    b"CREATE TEMPORARY TABLE IF NOT EXISTS staged_predictions (LIKE predictions) ON COMMIT DELETE ROWS"
)
COPY_STAGED = f"COPY staged_predictions ({_columns}) FROM STDIN (FORMAT BINARY)".encode()
# In order, so that two who insert the same rows wait for one another and never for each other.
INSERT_STAGED = (
    f"INSERT INTO predictions ({_columns}) SELECT {_columns} FROM staged_predictions ORDER BY timestamp, id"  # noqa: S608
    " ON CONFLICT DO NOTHING"
).encode()


def copy_data(rows: Iterable[bytes]) -> bytes:
    """What COPY … (FORMAT BINARY) is to be sent, of packed rows."""
    return b"".join((COPY_HEADER, *rows, COPY_TRAILER))


def blames_a_row(error: psycopg.Error) -> bool:
    """Whether a row is at fault, rather than the server: sending it again will fail again.

    Classes of SQLSTATE: 22 data exception, 23 integrity violation, 54 program limit exceeded.
    """
    return (error.sqlstate or "")[:2] in ("22", "23", "54")


def may_be_there_already(error: psycopg.Error) -> bool:
    """Whether leaving out what is there may help: a duplicate, or a deadlock with whoever inserts the same rows."""
    return isinstance(error, psycopg.errors.UniqueViolation | psycopg.errors.TransactionRollback)
