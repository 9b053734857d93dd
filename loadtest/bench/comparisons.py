"""Tables in which subjects stand beside each other: the growing ones, and models beside what they do by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from loadtest.bench.experiments import LIMIT
from loadtest.bench.figures import mb, ratio, rounds, us
from loadtest.bench.results import (
    Cell,
    Results,
    core_seconds_per_request,
    cpu_seconds_per_request,
    p50_seconds,
    p99_seconds,
    requests_per_second,
)
from loadtest.report import Table


def grown(results: Results, name: str, cells: Sequence[Cell]) -> Table:
    """Each subject in parts of the first, which is the smallest."""
    rows = []
    for _, group in groupby(cells, key=lambda cell: cell.case):
        first, *others = group
        for cell in (first, *others):
            speed, *latencies = (
                results.ratio(measure, cell, first) for measure in (requests_per_second, p50_seconds, p99_seconds)
            )
            rows.append(
                (
                    cell.case.name,
                    cell.subject,
                    ratio(speed),
                    rounds(speed),
                    *map(ratio, latencies),
                    ratio(results.ratio(cpu_seconds_per_request, cell, first)),
                    mb(max((each.pss_bytes.get("app", 0) for each in cell.rounds), default=0)),
                    f"{cell.start_seconds:.1f} s",
                )
            )
    head = ("load", "subject", "requests/s", "of rounds", "p50", "p99", "CPU/request", "PSS of the app", "start")
    return Table(f"{name}: in parts of the first", head, rows)


def has_limit(cells: Sequence[Cell]) -> bool:
    return any(cell.subject == LIMIT for cell in cells)


def beside_limit(results: Results, name: str, cells: Sequence[Cell]) -> Table:
    """What is left of what models do by themselves, by what a row costs them."""
    rows = []
    for case in dict.fromkeys(cell.case for cell in cells):
        limit, shoal, unbatched = (results.cell(name, subject, case) for subject in (LIMIT, "shoal", "unbatched"))
        seconds = limit.median(core_seconds_per_request) if limit else None
        rows.append(
            (
                case.name,
                us(seconds and seconds / max(case.rows, 1)),
                *(ratio(results.ratio(requests_per_second, cell, limit)) for cell in (shoal, unbatched)),
                ratio(results.ratio(requests_per_second, shoal, unbatched)),
            )
        )
    head = ("load", "a row costs a core", "rows/s of the limit", "unbatched of it", "batched of unbatched")
    return Table(f"{name}: beside the model by itself", head, rows)
