"""The rows of a chunk as they wait in Postgres: checked once, when they came, and not read as JSON a second time."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from api.rows import Row

_head = struct.Struct("!II")  # rows, bytes of the canonical form of one
_BETWEEN = b"\0"  # which no JSON holds


def pack(rows: Sequence[Row]) -> bytes:
    """At least one row, all of one model."""
    head = _head.pack(len(rows), len(rows[0].canonical))
    return b"".join((head, *(row.canonical for row in rows), _BETWEEN.join([row.text for row in rows])))


def unpack(packed: bytes) -> list[Row]:
    """Raises ValueError: `pack` did not make it."""
    try:
        count, width = _head.unpack_from(packed)
    except struct.error as error:
        raise ValueError("the chunk has no head") from error
    texts = packed[_head.size + count * width :].split(_BETWEEN)
    if len(texts) != count:
        raise ValueError(f"the chunk should hold {count} rows, and holds {len(texts)}")
    ends = range(_head.size, _head.size + count * width, width)
    return [Row(packed[at : at + width], text) for at, text in zip(ends, texts, strict=True)]
