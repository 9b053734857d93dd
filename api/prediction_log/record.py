"""One row of the log, and the bytes it travels in: packed once, and then only copied, into Postgres or the spool."""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

COLUMNS = (
    "id", "timestamp", "model", "version", "input_data", "prediction", "label", "confidence", "cache", "request_id",
)  # fmt: skip
"""In the order of their fields in a packed row."""

FORMAT = 1
"""Names COLUMNS. A spool may be replayed by a later release, which must know what the bytes in it are."""

# Binary COPY: a signature, flags and an extension, both empty; rows; -1 in place of a row's field count.
# https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"

_POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01, where Postgres counts microseconds from
_head = struct.Struct("!hi16siq").pack  # field count; id; timestamp: each field after its length
_length = struct.Struct("!i").pack
_json_head = struct.Struct("!ib").pack  # jsonb begins with the version of its own format, 1
_double = struct.Struct("!id").pack
_NULL = _length(-1)


class Record(NamedTuple):
    """A prediction as it is logged."""

    id: UUID
    """From `uuid7`, of the same `unix_ms`: a row is found by its id in the partition of its time."""

    unix_ms: int
    """When nginx took the request."""

    request_id: str
    model: str
    version: str

    input_data: bytes
    """JSON of the row as it was sent."""

    prediction: bytes
    """JSON: class index, value, or list of values."""

    label: str | None
    """Name of the class; None for a regression."""

    confidence: float | None
    """Probability of the class, 0 to 1; None for a regression."""

    cache: str
    """local, redis, coalesced or miss."""


def uuid7(unix_ms: int, seed: bytes) -> UUID:
    """The UUIDv7 of a time and a seed: always the same one, so that a retried request makes the same rows.

    unix_ms: 0 to 2**48 - 1. seed: its hash stands for the 74 bits that RFC 9562 leaves to chance.
    """
    chance = int.from_bytes(blake2b(seed, digest_size=10).digest(), "big")
    return UUID(int=unix_ms << 80 | 0x7 << 76 | (chance >> 62 & 0xFFF) << 64 | 0b10 << 62 | chance & (1 << 62) - 1)


def pack(record: Record) -> bytes:
    """One row of a binary COPY into COLUMNS.

    Raises:
        UnicodeEncodeError: a text that is not Unicode (a lone surrogate).
    """
    id, unix_ms, request_id, model, version, input_data, prediction, label, confidence, cache = record
    request = request_id.encode()
    return b"".join(
        (
            _head(10, 16, id.int.to_bytes(16, "big"), 8, (unix_ms - _POSTGRES_EPOCH_MS) * 1000),
            _text(model),
            _text(version),
            _json_head(len(input_data) + 1, 1),
            input_data,
            _json_head(len(prediction) + 1, 1),
            prediction,
            _NULL if label is None else _text(label),
            _NULL if confidence is None else _double(8, confidence),
            _text(cache),
            _length(len(request)),
            request,
        )
    )


@lru_cache(4096)  # models, versions, labels: few, and the same for ever
def _text(text: str) -> bytes:
    encoded = text.encode()
    return _length(len(encoded)) + encoded


def id_of(row: bytes) -> bytes:
    """The id of a packed row, 16 bytes."""
    return row[6:22]
