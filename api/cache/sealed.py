"""What Redis holds for a key: the model's output for one row, sealed, so that a damaged value is a miss, not a lie."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from zlib import crc32

import numpy as np
import numpy.typing as npt

Output = npt.NDArray[np.float32]  # of one row
Outputs = npt.NDArray[np.float32]  # of many

_FORMAT = 1  # of the bytes below; another format reads as damaged, that is, as a miss
_HEADER = struct.Struct("<BI")


def seal_many(keys: Sequence[bytes], outputs: Outputs) -> list[tuple[bytes, bytes]]:
    """The pairs that go to Redis.

    outputs: float32, shape (keys, outputs). The checksum covers the key: a value under a wrong key is damaged too.
    """
    payloads = outputs.tobytes()
    width = len(payloads) // len(keys)
    sealed = []
    for index, key in enumerate(keys):
        payload = payloads[index * width : (index + 1) * width]
        sealed.append((key, _HEADER.pack(_FORMAT, crc32(payload, crc32(key))) + payload))
    return sealed


def unseal(key: bytes, value: bytes, width: int) -> Output | None:
    """The output that was sealed, float32 of shape (width,), or None when these bytes are not that."""
    if len(value) != _HEADER.size + 4 * width:
        return None
    form, checksum = _HEADER.unpack_from(value)
    payload = value[_HEADER.size :]
    if form != _FORMAT or checksum != crc32(payload, crc32(key)):
        return None
    return np.frombuffer(payload, dtype=np.float32)
