"""The LRU keeps what was used last."""

from __future__ import annotations

from api.cache.local import LocalCache


def test_the_answer_used_longest_ago_makes_room() -> None:
    cache = LocalCache[int](2)
    cache.put(b"a", 1)
    cache.put(b"b", 2)
    cache.get(b"a")

    cache.put(b"c", 3)

    assert [cache.get(key) for key in (b"a", b"b", b"c")] == [1, None, 3]
    assert len(cache) == 2


def test_a_cache_of_no_rows_keeps_nothing() -> None:
    cache = LocalCache[int](0)

    cache.put(b"a", 1)

    assert cache.get(b"a") is None
    assert len(cache) == 0
