"""A logged row, its id, and the bytes it takes to Postgres and to the spool."""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

COLUMNS = 'id, "timestamp", model, version, input_data, prediction, label, confidence, cache, request_id'
FORMAT = 1  # of the packed bytes; raised with every change of COLUMNS, so that an old spool is not misread

_POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01
_HEAD = struct.Struct("!hi16siq")
_LENGTH = struct.Struct("!i")
_DOUBLE = struct.Struct("!id")
_NULL = _LENGTH.pack(-1)
_ID = slice(6, 22)


class Record(NamedTuple):
    """One row of the table `predictions`; the comments on its columns say what each is."""

    id: UUID
    unix_ms: int
    request_id: str
    model: str
    version: str
    input_data: bytes
    """JSON."""
    prediction: bytes
    """JSON."""
    label: str | None
    confidence: float | None
    cache: str


def uuid7(unix_ms: int, seed: bytes) -> UUID:
    """A UUIDv7 (RFC 9562) of this millisecond whose other 74 bits are a hash of the seed: the same twice."""
    bits = int.from_bytes(blake2b(seed, digest_size=10).digest(), "big")
    return UUID(
        int=(unix_ms & 0xFFFFFFFFFFFF) << 80 | 0x7 << 76 | (bits >> 64 & 0xFFF) << 64 | 0b10 << 62 | bits & (2**62 - 1)
    )


def pack(record: Record) -> bytes:
    """The record as one tuple of `COPY … (FORMAT binary)`.

    Source: https://www.postgresql.org/docs/17/sql-copy.html#SQL-COPY-FILE-FORMATS-BINARY-FORMAT
    """
    micros = (record.unix_ms - _POSTGRES_EPOCH_MS) * 1000
    return b"".join(
        (
            _HEAD.pack(10, 16, record.id.bytes, 8, micros),
            _text(record.model),
            _text(record.version),
            _jsonb(record.input_data),
            _jsonb(record.prediction),
            _NULL if record.label is None else _text(record.label),
            _NULL if record.confidence is None else _DOUBLE.pack(8, record.confidence),
            _text(record.cache),
            _text(record.request_id),
        )
    )


def id_of(packed: bytes) -> bytes:
    """The 16 bytes of a packed record's id."""
    return packed[_ID]


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _jsonb(value: bytes) -> bytes:
    return _LENGTH.pack(len(value) + 1) + b"\x01" + value
