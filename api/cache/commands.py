"""Redis' commands as the bytes that are written (RESP2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import hiredis


def pack(*parts: str | int | bytes) -> bytes:
    """Any command."""
    return cast(bytes, hiredis.pack_command(parts))  # type: ignore[arg-type]  # its stub means a tuple of any length


PING = pack("PING")


def mget(keys: Sequence[bytes]) -> bytes:
    """One command, one reply: a list of as many values. At least one key."""
    length = len(keys[0])
    if len(keys) == 1:
        return b"*2\r\n$4\r\nMGET\r\n$%d\r\n%b\r\n" % (length, keys[0])
    if len(set(map(len, keys))) > 1:  # of several models
        return pack("MGET", *keys)
    # The keys of one model version are equally long. 50 ns a key, where hiredis takes 140.
    between = b"\r\n$%d\r\n" % length
    return b"*%d\r\n$4\r\nMGET%b%b\r\n" % (len(keys) + 1, between, between.join(keys))


def set_many(values: Sequence[tuple[bytes, bytes]], ttl_seconds: int) -> bytes:
    """A SET for each pair, and a reply for each."""
    # A row's lengths are those of the row before it, or nearly always: 170 ns a row, where hiredis takes 830.
    commands = []
    lengths = (-1, -1)
    command = b""
    for pair in values:
        key, value = pair
        if lengths != (len(key), len(value)):
            lengths = (len(key), len(value))
            command = b"*5\r\n$3\r\nSET\r\n$%d\r\n%%b\r\n$%d\r\n%%b\r\n$2\r\nEX\r\n$%d\r\n%d\r\n" % (
                *lengths,
                len(str(ttl_seconds)),
                ttl_seconds,
            )
        commands.append(command % pair)
    return b"".join(commands)


def claim(key: bytes, lease_seconds: float) -> bytes:
    """One reply: OK when it was free and is ours now, else nil. It runs out with the lease."""
    return pack("SET", claim_of(key), b"1", "NX", "PX", max(1, round(lease_seconds * 1000)))


def release_many(keys: Sequence[bytes]) -> bytes:
    """One command, one reply: the number of claims there were."""
    return pack("DEL", *map(claim_of, keys))


def claim_of(key: bytes) -> bytes:
    return key + b":claim"
