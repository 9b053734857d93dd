"""Open after failures in a row; one caller at a time tries again."""

from __future__ import annotations

from api.cache.breaker import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_store_that_keeps_failing_is_left_alone_and_then_tried_by_one() -> None:
    clock = Clock()
    breaker = Breaker(max_failures=2, open_seconds=5, clock=clock)

    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert breaker.is_open
    assert not breaker.allows()

    clock.now += 5
    assert [breaker.allows() for _ in range(3)] == [True, False, False]

    breaker.succeeded()
    assert breaker.allows()
    assert not breaker.is_open


def test_only_failures_in_a_row_count() -> None:
    breaker = Breaker(max_failures=2, open_seconds=5, clock=Clock())

    for _ in range(5):
        breaker.failed()
        breaker.succeeded()

    assert not breaker.is_open
