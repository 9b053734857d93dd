from __future__ import annotations

import pytest

from loadtest.bench.bars import BARS, CONNECTIONS
from loadtest.bench.experiments import LIMIT
from loadtest.bench.options import known
from loadtest.bench.results import Cell, Results, Round, Spread
from loadtest.bench.verdict import Bar, Verdict, judge
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
    load = Load(100, 1.0, errors={"status": 0})
    cells = [Cell("penguins", name, case, [Round(1, load, {"app": 0.1})]) for name in ("shoal", "ceiling")]

    judged = judge(Results(cells), BARS)

    assert [(each.bar.what, each.spread.median) for each in judged] == [
        ("hit, requests/s against ceiling", 1.0),
        ("hit, CPU per request against ceiling", 1.0),
    ]


def test_growth_and_the_image_model_are_judged_by_the_experiments_that_measure_them() -> None:
    """By name and case: a bar that nothing can measure would be kept by nobody."""
    made = known(CONNECTIONS)
    load = Load(100, 1.0, p99_seconds=0.1, errors={"status": 0})
    stages = {"log": 1.0, "requests": 100}
    cells = [
        Cell(
            each.name,
            subject,
            case,
            [Round(1, load, {"app": 0.1}, {"app": 1}, stages=stages, proxied_seconds=0.01, capacity_seconds=1)],
        )
        for each in made.values()
        for case in each.cases
        for subject in [*(subject.name for subject in each.subjects), *([LIMIT] if each.with_limit else [])]
    ]

    assert [each.bar for each in judge(Results(cells), BARS)] == list(BARS)
