from __future__ import annotations

from loadtest.bench import comparisons
from loadtest.bench.experiments import LIMIT
from loadtest.bench.results import Cell, Results, Round
from loadtest.bench.workloads import Case
from loadtest.bench.wrk import Load


def test_what_grows_is_compared_with_the_smallest() -> None:
    case = Case("penguins", "miss", 64)
    cells = [
        Cell(
            "growth-rows",
            name,
            case,
            [Round(1, Load(requests, 1.0, p50_seconds=0.01, p99_seconds=p99), {"app": 0.5}, {"app": 300_000_000})],
            start_seconds=2.5,
        )
        for name, requests, p99 in (("1k-rows", 1000, 0.02), ("10M-rows", 900, 0.03))
    ]

    first, last = comparisons.grown(Results(cells), "growth-rows", cells).rows

    assert first[1:] == ("1k-rows", "1.00x", "1.00 to 1.00, 1", "1.00x", "1.00x", "1.00x", "300 MB", "2.5 s")
    assert last[1:] == ("10M-rows", "0.90x", "0.90 to 0.90, 1", "1.00x", "1.50x", "1.11x", "300 MB", "2.5 s")


def test_a_model_is_compared_with_what_it_does_by_itself() -> None:
    case = Case("digits-1000us", "miss", 8, rows=64)
    cells = [
        Cell("cost", "shoal", case, [Round(1, Load(24, 1.0))]),
        Cell("cost", "unbatched", case, [Round(1, Load(8, 1.0))]),
        Cell("cost", LIMIT, case, [Round(1, Load(30, 1.0), capacity_seconds=2.0)]),
    ]

    [row] = comparisons.beside_limit(Results(cells), "cost", cells).rows

    assert row == ("digits-1000us miss x64 @8", "1042 us", "0.80x", "0.27x", "3.00x")
