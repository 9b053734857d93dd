"""What the ratios are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtest.bench.results import (
    Measure,
    Results,
    Spread,
    cpu_seconds_per_request,
    p99_seconds,
    requests_per_second,
)
from loadtest.bench.workloads import Case, Workload

CONNECTIONS = 64
MIN_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """at_least or at_most: what must be kept. stretch: what would be better still."""

    what: str
    measured: Callable[[Results], Spread | None]
    at_least: float | None = None
    at_most: float | None = None
    stretch: float | None = None
    unit: str = "x"

    @property
    def wanted(self) -> str:
        text = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"{text}{self.unit}" + (f" (stretch {self.stretch:g}{self.unit})" if self.stretch is not None else "")

    def is_kept(self, value: float) -> bool:
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    bar: Bar
    spread: Spread

    @property
    def is_kept(self) -> bool:
        return self.bar.is_kept(self.spread.median)

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.bar.what,
            "at_least": self.bar.at_least,
            "at_most": self.bar.at_most,
            "stretch": self.bar.stretch,
            "unit": self.bar.unit,
            "median": self.spread.median,
            "least": self.spread.least,
            "greatest": self.spread.greatest,
            "rounds": self.spread.count,
            "kept": self.is_kept,
        }


def judge(results: Results) -> list[Verdict]:
    """Of each bar that was measured."""
    return [Verdict(bar, spread) for bar in BARS if (spread := bar.measured(results)) is not None]


def _against(
    other: str, measure: Measure, workload: Workload, experiment: str = "penguins"
) -> Callable[[Results], Spread | None]:
    case = Case("penguins", workload, CONNECTIONS)
    return lambda results: results.ratio(
        measure, results.cell(experiment, "shoal", case), results.cell(experiment, other, case)
    )


BARS = (
    Bar("hit, requests/s against ceiling", _against("ceiling", requests_per_second, "hit"), at_least=1, stretch=1.3),
    Bar(
        "miss, requests/s against ceiling", _against("ceiling", requests_per_second, "miss"), at_least=0.6, stretch=0.8
    ),
    Bar("zipf, requests/s against tutorial", _against("tutorial", requests_per_second, "zipf"), at_least=5, stretch=8),
    Bar("hit, CPU per request against ceiling", _against("ceiling", cpu_seconds_per_request, "hit"), at_most=1),
    Bar("miss, CPU per request against ceiling", _against("ceiling", cpu_seconds_per_request, "miss"), at_most=1.5),
    Bar("zipf, p99 against ceiling", _against("ceiling", p99_seconds, "zipf"), at_most=1.5),
)
