"""One row of the log, and the bytes it travels in: packed once, and then only copied, into Postgres or the spool.

What does not change from row to row is packed once for all of them: the model's part when it is loaded, the answer's
when it is made. A row is then four pieces and its own two fields put together.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import blake2b

COLUMNS = (
    "id", "timestamp", "model", "version", "input_data", "prediction", "label", "confidence", "cache", "request_id",
)  # fmt: skip
"""In the order of their fields in a packed row."""

FORMAT = 2
"""Names COLUMNS and their types. A spool may be replayed by a later release, which must know what its bytes are."""

# Binary COPY: a signature, flags and an extension, both empty; rows; -1 in place of a row's field count.
# https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"

_POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01, where Postgres counts microseconds from
_head = struct.Struct("!hiQQiq").pack  # field count; then the id in halves, and the timestamp, each after its length
_LOWER = 2**64 - 1
_length = struct.Struct("!i").pack
_jsonb_head = struct.Struct("!ib").pack  # jsonb begins with the version of its own format, 1
_double = struct.Struct("!id").pack
_NULL = _length(-1)


def uuid7(unix_ms: int, seed: bytes) -> int:
    """The UUIDv7 of a time and a seed, as a number: always the same one, so that a retried request makes the same rows.

    The next few numbers are ids too: a request's rows are counted up from it, as RFC 9562 (6.2, method 1) suggests,
    and so come in their order wherever they are sorted by id.

    unix_ms: 0 to 2**48 - 1. seed: its hash stands for the bits that are left to chance; all but the highest of the
    lower 62, so that counting up to 2**61 ends nowhere near the bits above.
    """
    chance = int.from_bytes(blake2b(seed, digest_size=10).digest(), "big")
    return unix_ms << 80 | 0x7 << 76 | (chance >> 62 & 0xFFF) << 64 | 0b10 << 62 | chance & (1 << 61) - 1


def pack_text(text: str) -> bytes:
    """Raises UnicodeEncodeError: a text that is not Unicode (a lone surrogate)."""
    encoded = text.encode()
    return _length(len(encoded)) + encoded


def pack_model(model: str, version: str) -> bytes:
    """What all rows of a model version have in common."""
    return pack_text(model) + pack_text(version)


def pack_answer(prediction: bytes, label: str | None, confidence: float | None) -> bytes:
    """What all rows with the same answer have in common.

    prediction: JSON: class index, value, or list of values. label: name of the class; None for a regression.
    confidence: probability of the class, 0 to 1; None for a regression.
    """
    return b"".join(
        (
            _jsonb_head(len(prediction) + 1, 1),
            prediction,
            _NULL if label is None else pack_text(label),
            _NULL if confidence is None else _double(8, confidence),
        )
    )


_cache_word = lru_cache(pack_text)  # local, redis, coalesced or miss


def pack_row(
    id: int, input_data: bytes, answer: bytes, cache: str, unix_ms: int, request_id: bytes, model: bytes
) -> bytes:
    """One row of a binary COPY into COLUMNS. To be called without naming the arguments, which would cost a tenth more.

    Args:
        id: from `uuid7`, of the same `unix_ms`: a row is found by its id in the partition of its time.
        input_data: as it was sent, JSON.
        answer: from `pack_answer`.
        cache: what became of it: local, redis, coalesced or miss.
        unix_ms: when nginx took the request.
        request_id: from `pack_text`.
        model: from `pack_model`.
    """
    return b"".join(
        (
            _head(len(COLUMNS), 16, id >> 64, id & _LOWER, 8, (unix_ms - _POSTGRES_EPOCH_MS) * 1000),
            model,
            _length(len(input_data)),
            input_data,
            answer,
            _cache_word(cache),
            request_id,
        )
    )


def id_of(row: bytes) -> bytes:
    """The id of a packed row, 16 bytes."""
    return row[6:22]
