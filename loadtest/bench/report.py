"""JSON for later, and a page with charts for people."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

from loadtest.bench import tables
from loadtest.bench.machine import in_words
from loadtest.bench.results import Cell, Results
from loadtest.bench.verdict import Verdict

NOTE = (
    "Medians over the rounds. The load generator is a closed loop and runs on the same cores as what it measures; its "
    "own CPU time is not counted. CPU: all processes and stores of a subject, until they are quiet again. PSS: their "
    "memory, shared pages divided, read at the end of each round, the greatest. Disturbed: rounds in which other "
    "programs, or the host, had more than 5 % of the machine; they count only where there are no others."
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


def page(results: Results, verdicts: Sequence[Verdict], machine: dict[str, Any]) -> str:
    shown = tables.of(results, verdicts)
    parts = [shown[-1].html(), *_charts(results), *(table.html() for table in shown[:-1])]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Shoal: benchmark</title><style>{_STYLE}</style>'
        f"<h1>Shoal against what it is measured by</h1><p>{escape(in_words(machine))}; revision "
        f"{escape(machine['revision'])}.</p><p>{escape(NOTE)}</p>{''.join(parts)}</html>"
    )


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
