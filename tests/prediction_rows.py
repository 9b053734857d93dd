"""Rows for tests of the prediction log, and a look at what became of them, past the code under test."""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from api.prediction_log import PredictionLog, pack_answer, pack_model, pack_row, pack_text, uuid7

_seeds = itertools.count()


class Record(NamedTuple):
    """A prediction as it is logged."""

    id: UUID
    unix_ms: int
    request_id: str
    model: str
    version: str
    input_data: bytes
    prediction: bytes
    label: str | None
    confidence: float | None
    cache: str


def record(**fields: Any) -> Record:
    """A prediction of now, with an id of its own."""
    unix_ms = fields.pop("unix_ms", time.time_ns() // 1_000_000)
    usual = {
        "id": UUID(int=uuid7(unix_ms, os.urandom(16))),
        "unix_ms": unix_ms,
        "request_id": f"request-{next(_seeds)}",
        "model": "penguins",
        "version": "2",
        "input_data": b"[39.1,18.7,181.0]",
        "prediction": b"1",
        "label": "Chinstrap",
        "confidence": 0.98,
        "cache": "miss",
    }
    return Record(**{**usual, **fields})


def pack(record: Record) -> bytes:
    return pack_row(
        record.id.int,
        record.input_data,
        pack_answer(record.prediction, record.label, record.confidence),
        record.cache,
        record.unix_ms,
        pack_text(record.request_id),
        pack_model(record.model, record.version),
    )


def row(**fields: Any) -> bytes:
    return pack(record(**fields))


def id_in(packed: bytes) -> UUID:
    return UUID(bytes=packed[6:22])


def poison() -> bytes:
    """A row that no Postgres takes: its texts cannot hold a NUL."""
    return row(label="\0")


def logged(dsn: str) -> Counter[UUID]:
    """How often each id is in Postgres."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return Counter(id for (id,) in connection.execute("SELECT id FROM predictions"))


def spooled(folder: Path) -> list[UUID]:
    with sqlite3.connect(folder / "spool.sqlite3") as connection:
        ids = [UUID(bytes=id) for (id,) in connection.execute("SELECT id FROM spooled")]
    connection.close()
    return ids


def prediction_log(dsn: str, folder: Path, **settings: Any) -> PredictionLog:
    """One that looks around more often than in production."""
    usual = {
        "password": None,
        "pool_size": 3,
        "gather_seconds": 0.001,
        "max_group_rows": 1000,
        "commit_timeout_seconds": 2,
        "upkeep_seconds": 0.05,
        "retry_seconds": 0.05,
    }
    return PredictionLog(dsn=dsn, spool_dir=folder, **{**usual, **settings})
