"""A table for the terminal, JSON for later, and a page with charts for people."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

from loadtest.bench.bars import MIN_ROUNDS, Verdict
from loadtest.bench.machine import in_words
from loadtest.bench.results import (
    Cell,
    Results,
    cpu_seconds_per_request,
    p50_seconds,
    p99_seconds,
    pss_bytes,
    requests_per_second,
)
from loadtest.report import Table

NOTE = (
    "Medians over the rounds. The load generator is a closed loop and runs on the same cores as what it measures; its "
    "own CPU time is not counted. CPU: all processes and stores of a subject, until they are quiet again. PSS: their "
    "memory, shared pages divided, read at the end of each round, the greatest."
)
_COLOURS = {
    "shoal": "#1565c0",
    "model only": "#9e9e9e",
    "ceiling": "#9e9e9e",
    "tutorial": "#e64a19",
    "proxy": "#cfd8dc",
}
_STYLE = (
    "body{font-family:Roboto,Helvetica,Arial,sans-serif;max-width:1000px;margin:32px auto;padding:0 24px;color:#222}"
    "table{border-collapse:collapse;margin:8px 0 24px}td,th{padding:4px 16px 4px 0;text-align:right;"
    "border-bottom:1px solid #8884}td:first-child,th:first-child{text-align:left}"
    ".missed{color:#d32f2f;font-weight:700}svg{display:block;width:100%}text{font-size:13px}"
)


def as_json(results: Results, verdicts: Sequence[Verdict], machine: dict[str, Any], options: dict[str, Any]) -> Any:
    return {
        "machine": machine,
        "options": options,
        "note": NOTE,
        "bars": [each.as_json() for each in verdicts],
        "cells": [each.as_json() for each in results.cells],
    }


def tables(results: Results, verdicts: Sequence[Verdict]) -> list[Table]:
    """Everything that was measured, what it is held against at the end."""
    shown = [
        Table(name, ("load", "subject", "requests/s", "rows/s", "p50", "p99", "CPU/request", "PSS", ""), _rows(cells))
        for name, group in groupby(results.cells, key=lambda cell: cell.experiment)
        if (cells := list(group))
    ]
    stages = _stage_rows(results)
    if stages:
        names = sorted({name for _, parts, _ in stages for name in parts})
        shown.append(
            Table(
                "Where a request spends its time in the replica, mean",
                ("load", *names, "rest", "request"),
                [
                    (load, *(_us(parts.get(name, 0.0)) for name in names), _us(rest), _us(rest + sum(parts.values())))
                    for load, parts, rest in stages
                ],
            )
        )
    if verdicts:
        few = [each for each in verdicts if each.spread.count < MIN_ROUNDS]
        title = "Bars" + (f" (of fewer than {MIN_ROUNDS} rounds: not a result yet)" if few else "")
        shown.append(
            Table(title, ("ratio", "bar", "median", "of rounds", ""), [_verdict_row(each) for each in verdicts])
        )
    return shown


def page(results: Results, verdicts: Sequence[Verdict], machine: dict[str, Any]) -> str:
    shown = tables(results, verdicts)
    parts = [shown[-1].html(), *_charts(results), *(table.html() for table in shown[:-1])]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Shoal: benchmark</title><style>{_STYLE}</style>'
        f"<h1>Shoal against what it is measured by</h1><p>{escape(in_words(machine))}; revision "
        f"{escape(machine['revision'])}.</p><p>{escape(NOTE)}</p>{''.join(parts)}</html>"
    )


# --- tables -----------------------------------------------------------------------------------------------------------
def _rows(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    return [
        (
            cell.case.name,
            cell.subject,
            _number(cell.median(requests_per_second)),
            _number(cell.rows_per_second()),
            _ms(cell.median(p50_seconds)),
            _ms(cell.median(p99_seconds)),
            _ms(cell.median(cpu_seconds_per_request), digits=3)
            if any(each.cpu_seconds for each in cell.rounds)
            else "",
            f"{max(map(pss_bytes, cell.rounds)) / 1e6:.0f} MB" if any(each.pss_bytes for each in cell.rounds) else "",
            f"{len(cell.rounds) - len(cell.valid)} INVALID" if len(cell.valid) < len(cell.rounds) else "",
        )
        for cell in cells
    ]


def _verdict_row(each: Verdict) -> tuple[str, ...]:
    spread, unit = each.spread, each.bar.unit
    spread_text = f"{spread.least:.2f} to {spread.greatest:.2f}, {spread.count}"
    return (each.bar.what, each.bar.wanted, f"{spread.median:.2f}{unit}", spread_text, _word(each))


def _word(each: Verdict) -> str:
    return "kept" if each.is_kept else "MISSED"


def _stage_rows(results: Results) -> list[tuple[str, dict[str, float], float]]:
    """Of each load of Shoal: seconds a request by stage, and what of the request is in none of them."""
    rows = []
    for cell in results.cells:
        counted = [each for each in cell.valid if each.stages.get("request")]
        if not counted:
            continue
        # Not those that the load generator counted: it leaves while some are on their way.
        requests = sum(each.stages["requests"] for each in counted)
        parts = {
            name: sum(each.stages.get(name, 0.0) for each in counted) / requests
            for name in counted[0].stages
            if name not in ("request", "requests", "proxy")  # the way from nginx is before the request arrives
        }
        whole = sum(each.stages["request"] for each in counted) / requests
        rows.append((f"{cell.case.name} {cell.subject}", parts, whole - sum(parts.values())))
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _ms(seconds: float | None, digits: int = 1) -> str:
    return f"{seconds * 1e3:.{digits}f} ms" if seconds else "-"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us"


# --- charts -----------------------------------------------------------------------------------------------------------
def _charts(results: Results) -> list[str]:
    """For each experiment its loads, the subjects as bars below each other."""
    charts = []
    for name, group in groupby(results.cells, key=lambda cell: cell.experiment):
        cells = list(group)
        charts.append(f"<h2>{escape(name)}: rows/s</h2>")
        for load, members in groupby(cells, key=lambda cell: cell.case.name):
            charts.append(_chart(load, list(members)))
    return charts


def _chart(title: str, cells: Sequence[Cell]) -> str:
    values = [cell.rows_per_second() or 0.0 for cell in cells]
    greatest = max(values) or 1.0
    lines = [f'<text x="0" y="16" font-weight="bold">{escape(title)}</text>']
    for index, (cell, value) in enumerate(zip(cells, values, strict=True)):
        y = 26 + 24 * index
        width = 700 * value / greatest
        lines.append(
            f'<text x="0" y="{y + 14}">{escape(cell.subject)}</text>'
            f'<rect x="120" y="{y}" width="{width:.1f}" height="18" fill="{_COLOURS.get(cell.subject, "#64b5f6")}"/>'
            f'<text x="{126 + width:.1f}" y="{y + 14}">{value:.0f}</text>'
        )
    return f'<svg viewBox="0 0 900 {36 + 24 * len(cells)}" role="img">{"".join(lines)}</svg>'
