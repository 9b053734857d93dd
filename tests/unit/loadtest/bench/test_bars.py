from __future__ import annotations

import pytest

from loadtest.bench.bars import BARS, Bar, Verdict, judge
from loadtest.bench.results import Cell, Results, Round, Spread
from loadtest.bench.workloads import Case
from loadtest.bench.wrk import Load


def nothing(results: Results) -> Spread | None:
    return None


@pytest.mark.parametrize(
    ("bar", "value", "kept"),
    [
        (Bar("x", nothing, at_least=0.6), 0.6, True),
        (Bar("x", nothing, at_least=0.6), 0.59, False),
        (Bar("x", nothing, at_most=1.5), 1.5, True),
        (Bar("x", nothing, at_most=1.5), 1.51, False),
    ],
)
def test_a_bar_is_kept_from_its_number_on(bar: Bar, value: float, kept: bool) -> None:
    assert Verdict(bar, Spread(value, value, value, 5)).is_kept is kept


def test_every_bar_says_either_the_least_or_the_most() -> None:
    assert all((bar.at_least is None) != (bar.at_most is None) for bar in BARS)


def test_only_what_was_measured_is_judged() -> None:
    case = Case("penguins", "hit", 64)
    load = Load(100, 1.0, 0.001, 0.002, 0.003, {"status": 0})
    cells = [Cell("penguins", name, case, [Round(1, load, {"app": 0.1})]) for name in ("shoal", "ceiling")]

    judged = judge(Results(cells))

    assert [(each.bar.what, each.spread.median) for each in judged] == [
        ("hit, requests/s against ceiling", 1.0),
        ("hit, CPU per request against ceiling", 1.0),
    ]
