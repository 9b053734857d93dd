"""All that was measured, in tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from loadtest.bench import comparisons, profile
from loadtest.bench.bars import MIN_ROUNDS
from loadtest.bench.figures import mb, ms, number, ratio, rounds
from loadtest.bench.results import (
    Cell,
    Results,
    cpu_seconds_per_request,
    p50_seconds,
    p99_seconds,
    pss_bytes,
    requests_per_second,
)
from loadtest.bench.verdict import Verdict
from loadtest.report import Table


def of(results: Results, verdicts: Sequence[Verdict]) -> list[Table]:
    """What each subject did, how they compare, where time goes; what it is held against at the end."""
    experiments = {name: list(group) for name, group in groupby(results.cells, key=lambda cell: cell.experiment)}
    shown = [_measured(name, cells) for name, cells in experiments.items()]
    for name, cells in experiments.items():
        if name.startswith("growth-") or name == "balance":
            shown.append(comparisons.grown(results, name, cells))
        elif comparisons.has_limit(cells):
            shown.append(comparisons.beside_limit(results, name, cells))
    shown += [profile.stages(results.cells), profile.cpu(results.cells), _judged(verdicts)]
    return [table for table in shown if table.rows]


def _measured(name: str, cells: Sequence[Cell]) -> Table:
    head = ("load", "subject", "requests/s", "rows/s", "p50", "p99", "CPU/request", "PSS", "")
    return Table(name, head, [_row(cell) for cell in cells])


def _row(cell: Cell) -> tuple[str, ...]:
    has_cpu, has_pss = any(each.cpu_seconds for each in cell.rounds), any(each.pss_bytes for each in cell.rounds)
    return (
        cell.case.name,
        cell.subject,
        number(cell.median(requests_per_second)),
        number(cell.rows_per_second()),
        ms(cell.median(p50_seconds)),
        ms(cell.median(p99_seconds)),
        ms(cell.median(cpu_seconds_per_request), digits=3) if has_cpu else "",
        mb(max(map(pss_bytes, cell.rounds))) if has_pss else "",
        ", ".join(_remarks(cell)),
    )


def _remarks(cell: Cell) -> Iterator[str]:
    if invalid := len(cell.rounds) - len(cell.valid):
        yield f"{invalid} INVALID"
    if disturbed := sum(each.is_disturbed for each in cell.rounds):
        yield f"{disturbed} disturbed"
    if any(each.load.is_busy for each in cell.rounds):
        yield "load generator at its limit"


def _judged(verdicts: Sequence[Verdict]) -> Table:
    few = any(each.spread.count < MIN_ROUNDS for each in verdicts)
    title = "Bars" + (f" (of fewer than {MIN_ROUNDS} rounds: not a result yet)" if few else "")
    return Table(title, ("ratio", "bar", "median", "of rounds", ""), [_verdict(each) for each in verdicts])


def _verdict(each: Verdict) -> tuple[str, ...]:
    shown = ratio(each.spread, each.bar.unit)
    return (each.bar.what, each.bar.wanted, shown, rounds(each.spread), "kept" if each.is_kept else "MISSED")
