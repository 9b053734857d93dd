from __future__ import annotations

import pytest

from loadtest.bench.results import (
    Cell,
    Results,
    Round,
    cpu_seconds_per_request,
    p99_seconds,
    requests_per_second,
)
from loadtest.bench.workloads import Case
from loadtest.bench.wrk import Load

CASE = Case("penguins", "hit", 64)
NO_ERRORS = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}


def measured(
    number: int, requests: int, *, p99: float = 0.01, cpu: float = 1.0, failed: int = 0, foreign: float = 0.0
) -> Round:
    load = Load(requests, 2.0, p99 / 2, p99 / 2, p99, p99 * 2, {**NO_ERRORS, "status": failed})
    used = {"app": cpu, "postgres": cpu}
    return Round(number, load, used, foreign_cpu_seconds=foreign, capacity_seconds=6.0)


def cell(subject: str, *rounds: Round) -> Cell:
    return Cell("penguins", subject, CASE, list(rounds))


def test_a_median_is_of_the_rounds_that_are_valid() -> None:
    some = cell("shoal", measured(1, 200), measured(2, 400), measured(3, 90_000, failed=1), measured(4, 600))

    assert some.median(requests_per_second) == 200
    assert len(some.valid) == 3


def test_cpu_is_that_of_all_processes_by_request() -> None:
    assert cpu_seconds_per_request(measured(1, 1000, cpu=0.5)) == pytest.approx(0.001)


@pytest.mark.parametrize("bad", [measured(1, 0), measured(1, 10, failed=10)])
def test_there_is_no_median_without_a_valid_round(bad: Round) -> None:
    assert cell("shoal", bad).median(p99_seconds) is None


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    # The machine got ten times slower in the second round, for both.
    ours = cell("shoal", measured(1, 2000), measured(2, 180), measured(3, 2200))
    theirs = cell("ceiling", measured(1, 1000), measured(2, 100), measured(3, 1000))

    ratio = Results([ours, theirs]).ratio(requests_per_second, ours, theirs)

    assert ratio is not None
    assert (ratio.least, ratio.median, ratio.greatest, ratio.count) == (1.8, 2.0, 2.2, 3)


def test_a_round_that_is_invalid_for_one_is_left_out_of_their_ratio() -> None:
    ours = cell("shoal", measured(1, 2000), measured(2, 3000))
    theirs = cell("ceiling", measured(1, 1000, failed=3), measured(2, 1000))

    ratio = Results([ours, theirs]).ratio(requests_per_second, ours, theirs)

    assert ratio is not None
    assert (ratio.median, ratio.count) == (3.0, 1)


def test_there_is_no_ratio_to_what_was_not_measured() -> None:
    ours = cell("shoal", measured(1, 2000))
    results = Results([ours])

    assert results.ratio(requests_per_second, ours, results.cell("penguins", "ceiling", CASE)) is None
    assert results.ratio(requests_per_second, ours, cell("ceiling", measured(1, 10, failed=1))) is None


def test_the_json_of_a_cell_counts_rows_and_invalid_rounds() -> None:
    batches = Cell("rows", "shoal", Case("penguins", "hit", 16, rows=8), [measured(1, 200), measured(2, 1, failed=1)])

    shown = batches.as_json()

    assert shown["median"]["requests_per_second"] == 100
    assert shown["median"]["rows_per_second"] == 800
    assert (shown["rows_per_request"], shown["invalid_rounds"], len(shown["rounds"])) == (8, 1, 2)


@pytest.mark.parametrize(("foreign", "disturbed"), [(0.29, False), (0.31, True)])
def test_a_round_in_which_others_had_a_twentieth_of_the_machine_is_disturbed(foreign: float, disturbed: bool) -> None:
    assert measured(1, 100, foreign=foreign).is_disturbed is disturbed


def test_disturbed_rounds_count_only_where_there_are_no_others() -> None:
    some = cell("shoal", measured(1, 200), measured(2, 2, foreign=3.0), measured(3, 4, foreign=3.0))
    none = cell("ceiling", measured(1, 100, foreign=3.0), measured(2, 20, foreign=3.0), measured(3, 20, foreign=3.0))
    other = cell("ceiling", measured(1, 100), measured(2, 20), measured(3, 20))

    assert some.median(requests_per_second) == 100
    assert none.median(requests_per_second) == 10
    calm, disturbed = (Results([]).ratio(requests_per_second, some, each) for each in (other, none))
    assert calm is not None
    assert disturbed is not None
    assert (calm.median, calm.count) == (2.0, 1)
    assert (disturbed.median, disturbed.count) == (0.2, 3)
