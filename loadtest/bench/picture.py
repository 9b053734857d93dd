"""The picture for the README: requests/s in parts of the ceiling's, as an SVG that stands by itself."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from loadtest.bench.experiments import CEILING, PROXY, SHOAL, TUTORIAL
from loadtest.bench.machine import in_words
from loadtest.bench.results import Cell, Results, requests_per_second
from loadtest.bench.workloads import WORKLOADS

EXPERIMENT = "penguins"
"""Without which there is no picture; `digits` is in it too where it was measured."""

_MODELS = {"penguins": "3 features", "digits": "image of 8 x 8"}
_LOADS = {"hit": "the same row again and again", "miss": "every row new", "zipf": "10 000 rows, Zipf (s = 1.1)"}
_NAMES = {
    SHOAL.name: "Shoal, everything on",
    CEILING.name: "FastAPI, a constant",
    TUTORIAL.name: "the usual tutorial",
    PROXY.name: "nginx by itself",
}
_WIDTH, _LEFT, _BARS = 860, 165, 530  # of all, of the names, of the longest bar
_LINE, _BAR = 21, 15
# Whoever looks has a light or a dark page, and the picture brings its own ground for either.
_STYLE = (
    "text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}"
    ".title{font-size:15px;font-weight:600}.load{font-weight:600}.number{text-anchor:end}.note{font-size:11px;fill:#59636e}"
    ".ground{fill:#fff;stroke:#d1d9e0}.one{stroke:#59636e;stroke-dasharray:3 3}"
    ".shoal{fill:#0969da}.ceiling{fill:#8c959f}.tutorial{fill:#bc4c00}.proxy{fill:#d1d9e0}"
    "@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.note{fill:#9198a1}.ground{fill:#0d1117;stroke:#3d444d}"
    ".one{stroke:#9198a1}.shoal{fill:#4493f8}.ceiling{fill:#7d8590}.tutorial{fill:#db6d28}.proxy{fill:#3d444d}}"
)


def draw(results: Results, machine: dict[str, Any]) -> str:
    groups = list(_groups(results))
    greatest = max((value for _, bars in groups for _, value, _ in bars), default=1.0)
    lines, y = [], 58
    for title, bars in groups:
        lines.append(f'<text class="load" x="20" y="{y}">{escape(title)}</text>')
        top = y + 8
        for name, value, rate in bars:
            y += _LINE
            width = _BARS * value / greatest
            lines.append(
                f'<text x="20" y="{y}">{escape(_NAMES[name])}</text>'
                f'<rect class="{name}" x="{_LEFT}" y="{y - 12}" width="{width:.2f}" height="{_BAR}" rx="2"/>'
                f'<text class="number" x="{_WIDTH - 110}" y="{y}">{value:.2f}x</text>'
                f'<text class="number" x="{_WIDTH - 20}" y="{y}">{_grouped(rate)}/s</text>'
            )
        one = _LEFT + _BARS / greatest
        lines.append(f'<path class="one" d="M{one:.1f} {top}V{y + 6}"/>')
        y += 36
    notes = [
        f"Medians of {_rounds(results)} rounds in turns; load generator, stores and nginx on the same cores; revision "
        f"{machine['revision']}.",
        f"{in_words(machine)}.",
    ]
    lines += [f'<text class="note" x="20" y="{y + 16 * row}">{escape(note)}</text>' for row, note in enumerate(notes)]
    height = y + 16 * len(notes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img"><title>Requests/s of Shoal and of what it is measured by</title><style>{_STYLE}</style>'
        f'<rect class="ground" x=".5" y=".5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>'
        '<text class="title" x="20" y="30">Requests/s, in parts of what a FastAPI route does that returns a constant'
        f"</text>{''.join(lines)}</svg>\n"
    )


Bars = list[tuple[str, float, float]]  # the subject, its part of the ceiling, requests/s


def _groups(results: Results) -> Iterator[tuple[str, Bars]]:
    for model, about in _MODELS.items():
        for workload in WORKLOADS:
            cells = [each for each in results.cells if (each.experiment, each.case.workload) == (model, workload)]
            ceiling = next((each for each in cells if each.subject == CEILING.name), None)
            if ceiling is not None:
                connections = ceiling.case.connections
                title = f"{about}, {_LOADS[workload]}, {connections} connections"
                yield title, [bar for cell in cells if (bar := _bar(results, cell, ceiling))]


def _bar(results: Results, cell: Cell, ceiling: Cell) -> tuple[str, float, float] | None:
    ratio, rate = results.ratio(requests_per_second, cell, ceiling), cell.median(requests_per_second)
    return (cell.subject, ratio.median, rate) if ratio and rate else None


def _rounds(results: Results) -> int:
    return max((len(cell.rounds) for cell in results.cells if cell.experiment in _MODELS), default=0)


def _grouped(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\N{NO-BREAK SPACE}")
