"""A worker's own memory keeps what is asked for again and again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.cache.local import LocalCache

Step = tuple[str, bytes]
STEPS = st.lists(st.tuples(st.sampled_from(("get", "put", "drop")), st.sampled_from([b"%d" % n for n in range(12)])))


def test_the_answer_that_came_longest_ago_makes_room() -> None:
    cache = LocalCache[int](4)
    for key in (b"a", b"b", b"c", b"d"):
        cache.put(key, ord(key))
    cache.get(b"a")

    cache.put(b"e", 5)

    assert [cache.get(key) for key in (b"a", b"b", b"c")] == [97, None, 99]
    assert len(cache) == 4


def test_rows_that_come_once_leave_those_that_come_again() -> None:
    cache = LocalCache[int](20)
    again = [b"again %d" % n for n in range(10)]
    for key in again:
        cache.put(key, 1)
        cache.get(key)

    for n in range(1000):
        cache.put(b"once %d" % n, 1)

    assert [cache.get(key) for key in again] == [1] * 10


def test_what_is_no_longer_asked_for_goes_in_the_end() -> None:
    cache = LocalCache[int](20)
    for generation in range(3):
        for n in range(20):
            cache.put(b"%d %d" % (generation, n), 1)
            cache.get(b"%d %d" % (generation, n))

    assert [cache.get(b"0 %d" % n) for n in range(20)] == [None] * 20
    assert [cache.get(b"2 %d" % n) for n in range(20)] == [1] * 20


def test_a_cache_of_no_rows_keeps_nothing() -> None:
    cache = LocalCache[int](0)

    cache.put(b"a", 1)

    assert cache.get(b"a") is None
    assert len(cache) == 0


def test_what_is_dropped_is_gone_and_nothing_else() -> None:
    cache = LocalCache[int](10)
    for key in (b"a:1", b"a:2", b"b:1", b"ab:1"):
        cache.put(key, 1)
    cache.get(b"a:1")
    cache.get(b"b:1")

    cache.drop((b"a:", b"c:"))

    assert [cache.get(key) for key in (b"a:1", b"a:2", b"b:1", b"ab:1")] == [None, None, 1, 1]
    assert len(cache) == 2


@given(max_rows=st.integers(0, 9), steps=STEPS)
def test_it_does_what_two_lists_would(max_rows: int, steps: list[Step]) -> None:
    cache = LocalCache[int](max_rows)
    kept: list[bytes] = []
    probation: list[bytes] = []
    answers: dict[bytes, int] = {}
    for number, (what, key) in enumerate(steps):
        if what == "put":
            cache.put(key, number)
            answers[key] = number
            if key not in kept + probation:
                probation.append(key)
                if len(kept + probation) > max_rows:
                    probation.pop(0)
        elif what == "get":
            there = key in kept + probation
            assert cache.get(key) == (answers[key] if there else None)
            if there:
                (kept if key in kept else probation).remove(key)
                kept.append(key)
                if len(kept) > max_rows // 2:
                    probation.append(kept.pop(0))
        else:
            cache.drop((key,))
            kept, probation = ([each for each in those if not each.startswith(key)] for those in (kept, probation))
        assert len(cache) == len(kept + probation) <= max_rows
    for key in answers:
        assert (cache.get(key) is not None) == (key in kept + probation)


@given(max_rows=st.integers(1, 9), steps=STEPS)
def test_what_was_put_last_is_there_however_the_others_came(max_rows: int, steps: list[Step]) -> None:
    cache = LocalCache[int](max_rows)
    for what, key in steps:
        if what == "get":
            cache.get(key)
        cache.put(key, 7)
        assert cache.get(key) == 7
