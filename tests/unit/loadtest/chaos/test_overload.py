"""The verdict on an overload, from ledgers made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loadtest.chaos.ledger import Ledger
from loadtest.chaos.overload import Bar, judge, recovered
from loadtest.chaos.reconcile import Reckoning
from loadtest.chaos.scenario import Outcome

BEGUN, ENDED, PEAK = 100.0, 110.0, 10.0
FLAT = [(BEGUN + second, 5e8) for second in range(10)]


def overload(
    *,
    answers: float = 10,
    refusal_seconds: float = 0.01,
    retry_after: int = 1,
    lag_seconds: float = 0.0,
    is_seen_to_end: bool = True,
) -> Ledger:
    """Ten seconds with three times the peak offered, of which so many a second are answered; then a request in time."""
    ledger = Ledger()
    for number in range(300):
        due = BEGUN + number / 30
        sent = due + lag_seconds
        ledger.begin(due, sent)
        if number % 30 < answers:
            ledger.end(number, due, 200, b"{}")
        else:
            ledger.end(number, sent + refusal_seconds, 429, b"", retry_after)
    due = ENDED + 1
    ledger.end(ledger.begin(due, due if is_seen_to_end else due + 1), due + 1, 200, b"{}")
    return ledger


def verdict(ledger: Ledger, memory: list[tuple[float, float]] = FLAT, recovered_seconds: float = 0.1) -> list[str]:
    made = Outcome(Reckoning(), 0.0, recovered_seconds)
    judge(made, ledger, PEAK, BEGUN, ENDED, memory, Bar(0.9, 0.1))
    return made.broken


def test_an_overload_as_promised_is_found_so() -> None:
    assert verdict(overload()) == []


@pytest.mark.parametrize(
    ("make", "broken"),
    [
        (lambda: verdict(overload(answers=8)), "goodput 0.80 of the peak"),
        (lambda: verdict(overload(answers=30)), "nothing was refused"),
        (lambda: verdict(overload(refusal_seconds=0.2)), "429 took 0.200 s"),
        (lambda: verdict(overload(retry_after=-1)), "without a Retry-After"),
        (lambda: verdict(overload(retry_after=60)), "without a Retry-After"),
        (lambda: verdict(overload(), [(at, size + at * 2e7) for at, size in FLAT]), "memory grew"),
        (lambda: verdict(overload(), recovered_seconds=3), "3.0 s to recover"),
        (lambda: verdict(overload(is_seen_to_end=False)), "nobody saw the recovery"),
    ],
)
def test_each_promise_that_is_broken_is_named(make: Callable[[], list[str]], broken: str) -> None:
    [found] = make()
    assert broken in found


def test_a_load_that_cannot_keep_up_does_not_make_refusals_slow() -> None:
    assert verdict(overload(lag_seconds=1)) == []


def test_recovery_ends_with_the_last_request_that_was_slow_or_refused() -> None:
    ledger = Ledger()
    for due, seconds, status in (
        (ENDED - 1, 9, 200),
        (ENDED + 1, 0.1, 429),
        (ENDED + 2, 0.9, 200),
        (ENDED + 3, 0.1, 200),
    ):
        ledger.end(ledger.begin(due, due), due + seconds, status)
    assert recovered(ledger, ENDED) == 2


def test_an_overload_lasts_until_the_load_has_sent_what_it_owes() -> None:
    ledger = Ledger()
    for due, sent, seconds, status in (
        (ENDED - 1, ENDED + 5, 0.1, 429),
        (ENDED + 5, ENDED + 5.1, 0.1, 429),
        (ENDED + 6, ENDED + 6, 0.1, 200),
    ):
        ledger.end(ledger.begin(due, sent), sent + seconds, status)
    assert recovered(ledger, ENDED) == pytest.approx(0.1)
