"""What is written is what hiredis would write."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.cache.commands import mget, pack, set_many

KEYS = st.binary(min_size=1, max_size=3)


@given(keys=st.lists(KEYS, min_size=1, max_size=5))
def test_lookups_of_any_keys(keys: list[bytes]) -> None:
    assert mget(keys) == pack("MGET", *keys)


@given(values=st.lists(st.tuples(KEYS, st.binary(max_size=3)), max_size=5), ttl=st.integers(1, 10**7))
def test_writes_of_any_values(values: list[tuple[bytes, bytes]], ttl: int) -> None:
    packed = [pack("SET", key, value, "EX", ttl) for key, value in values]

    assert set_many(values, ttl) == b"".join(packed)
