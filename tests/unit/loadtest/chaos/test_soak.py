"""What grows over a long day is found, and what goes up and down is not."""

from __future__ import annotations

import pytest

from loadtest.chaos.reconcile import Reckoning
from loadtest.chaos.scenario import Outcome
from loadtest.chaos.soak import FLAT, judge


def verdict(**values: list[float]) -> list[str]:
    made = Outcome(Reckoning(), 0.0, 0.0)
    made.series = {name: [(at, 10.0) for at in range(100)] for name in FLAT}
    for word, numbers in values.items():
        [name] = [each for each in FLAT if word in each]
        made.series[name] = list(enumerate(numbers))
    judge(made)
    return made.broken


def test_what_stays_as_it_is_is_flat() -> None:
    assert verdict(memory=[500 + 40 * (at % 2) for at in range(100)]) == []


@pytest.mark.parametrize(
    ("word", "numbers"),
    [
        ("memory", [500 + 3 * at for at in range(100)]),
        ("descriptors", [100 + 20 * at for at in range(100)]),
        ("metrics", [8 + at // 30 for at in range(100)]),
        ("TTL", [at // 60 for at in range(100)]),
        ("Postgres", [10 + at // 3 for at in range(100)]),
    ],
)
def test_what_grows_is_named(word: str, numbers: list[float]) -> None:
    [broken] = verdict(**{word: numbers})
    assert word in broken
