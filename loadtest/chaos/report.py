"""A table for the terminal, JSON for later, and a page with charts for people."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from loadtest.bench.machine import in_words
from loadtest.chaos.ledger import in_words as status_in_words
from loadtest.chaos.scenario import Outcome, Scenario
from loadtest.report import Table

_STYLE = (
    "body{font-family:Roboto,Helvetica,Arial,sans-serif;max-width:1100px;margin:32px auto;padding:0 24px;color:#222}"
    "table{border-collapse:collapse;margin:8px 0 24px}td,th{padding:4px 16px 4px 0;text-align:right;"
    "border-bottom:1px solid #8884}td:first-child,th:first-child{text-align:left}"
    ".missed{color:#d32f2f;font-weight:700}svg{display:block;width:100%}text{font-size:12px}"
)
_HEAD = ("scenario", "requests", "failed", "refused", "lost", "duplicated", "wrong", "worst answer", "recovered in", "")

Day = tuple[Scenario, Outcome]


def refused(outcome: Outcome) -> int:
    """Told to come back later: 429, and 503 with nothing logged."""
    return outcome.reckoning.statuses[429] + outcome.reckoning.statuses[503]


def table(days: Sequence[Day]) -> Table:
    return Table("What was broken, and what it came to", _HEAD, [_row(*day) for day in days])


def _row(scenario: Scenario, outcome: Outcome) -> tuple[str, ...]:
    reckoning = outcome.reckoning
    counts = (
        reckoning.requests,
        reckoning.failed - refused(outcome),
        refused(outcome),
        reckoning.lost,
        reckoning.duplicated,
        reckoning.wrong + reckoning.altered + reckoning.unasked,
    )
    return (
        scenario.name,
        *map(str, counts),
        f"{outcome.worst_seconds:.2f} s",
        f"{outcome.recovered_seconds:.1f} s",
        "MISSED" if outcome.broken else "kept",
    )


def remarks(days: Sequence[Day]) -> list[str]:
    """What was measured besides, what was promised where it was not kept, and by what it was seen."""
    lines = []
    for scenario, outcome in days:
        lines += [f"{scenario.name}: {name}: {value}" for name, value in outcome.figures.items()]
        lines += [f"{scenario.name}: BROKEN: {promise}" for promise in outcome.broken]
        if outcome.broken:
            lines += [f"{scenario.name}: e.g. {example[:600]}" for example in outcome.examples]
    return lines


def as_json(days: Sequence[Day], machine: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    return {"machine": machine, "options": options, "scenarios": [_day_as_json(*day) for day in days]}


def _day_as_json(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    reckoning = outcome.reckoning
    return {
        "name": scenario.name,
        "about": scenario.about,
        "promise": scenario.promise,
        "kept": not outcome.broken,
        "broken": outcome.broken,
        "requests": reckoning.requests,
        "answered": reckoning.answered,
        "statuses": {status_in_words(status): count for status, count in sorted(reckoning.statuses.items())},
        "failed": reckoning.failed - refused(outcome),
        "refused": refused(outcome),
        "lost": reckoning.lost,
        "duplicated": reckoning.duplicated,
        "altered": reckoning.altered,
        "unasked": reckoning.unasked,
        "wrong": reckoning.wrong,
        "examples": outcome.examples,
        "worst_seconds": outcome.worst_seconds,
        "recovered_seconds": outcome.recovered_seconds,
        "figures": outcome.figures,
        "numbers": outcome.numbers,
        "series": outcome.series,
    }


def page(days: Sequence[Day], machine: dict[str, Any]) -> str:
    parts = [table(days).html()]
    for scenario, outcome in days:
        parts.append(f"<h2>{escape(scenario.name)}</h2><p>{escape(scenario.about)}. {escape(scenario.promise)}.</p>")
        parts += [f'<p class="missed">{escape(promise)}</p>' for promise in outcome.broken]
        if outcome.figures:
            parts.append(Table("", ("measured", ""), list(outcome.figures.items())).html())
        parts += [chart(name, points) for name, points in outcome.series.items() if points]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Shoal: bad days</title><style>{_STYLE}</style>'
        f"<h1>Shoal on bad days</h1><p>{escape(in_words(machine))}; revision {escape(machine['revision'])}.</p>"
        f"{''.join(parts)}</html>"
    )


def chart(name: str, points: Sequence[tuple[float, float]]) -> str:
    """A line over time, from zero to the greatest value."""
    end = max(at for at, _ in points) or 1.0
    most = max(value for _, value in points) or 1.0
    line = " ".join(f"{60 + 820 * at / end:.1f},{120 - 100 * value / most:.1f}" for at, value in points)
    return (
        f'<svg viewBox="0 0 900 140" role="img"><text x="60" y="12" font-weight="bold">{escape(name)}</text>'
        f'<text x="0" y="26">{most:.4g}</text><text x="0" y="122">0</text><text x="830" y="136">{end:.0f} s</text>'
        f'<path d="M60 20V120H880" fill="none" stroke="#bbb"/>'
        f'<polyline points="{line}" fill="none" stroke="#1565c0" stroke-width="1.5"/></svg>'
    )
