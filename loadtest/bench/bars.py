"""What the ratios are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtest.bench.experiments import LIMIT, ROWS_CONNECTIONS
from loadtest.bench.results import (
    Measure,
    Results,
    Spread,
    app_pss_bytes,
    cpu_seconds_per_request,
    p99_seconds,
    requests_per_second,
)
from loadtest.bench.workloads import Case, Model, Workload

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


Measured = Callable[[Results], Spread | None]


def _against(
    other: str,
    measure: Measure,
    workload: Workload,
    *,
    experiment: str = "penguins",
    subject: str = "shoal",
    model: Model = "penguins",
    connections: int = CONNECTIONS,
    rows: int = 0,
) -> Measured:
    """The subject's measure in parts of the other's."""
    case = Case(model, workload, connections, rows)
    return lambda results: results.ratio(
        measure, results.cell(experiment, subject, case), results.cell(experiment, other, case)
    )


def _further_worker_mb(results: Results) -> Spread | None:
    """What three more workers add to the first, for each of them, at their greatest."""
    case = Case("penguins", "miss", CONNECTIONS)
    one, four = (results.cell("memory", name, case) for name in ("1-worker", "4-workers"))
    if one is None or four is None or not (one.rounds and four.rounds):
        return None
    less, more = (max(map(app_pss_bytes, cell.rounds)) for cell in (one, four))
    each = (more - less) / 3 / 1e6
    return Spread(each, each, each, len(four.rounds))


BARS = (
    Bar("hit, requests/s against ceiling", _against("ceiling", requests_per_second, "hit"), at_least=1, stretch=1.3),
    Bar(
        "miss, requests/s against ceiling", _against("ceiling", requests_per_second, "miss"), at_least=0.6, stretch=0.8
    ),
    Bar("zipf, requests/s against tutorial", _against("tutorial", requests_per_second, "zipf"), at_least=5, stretch=8),
    Bar("hit, CPU per request against ceiling", _against("ceiling", cpu_seconds_per_request, "hit"), at_most=1),
    Bar("miss, CPU per request against ceiling", _against("ceiling", cpu_seconds_per_request, "miss"), at_most=1.5),
    Bar("zipf, p99 against ceiling", _against("ceiling", p99_seconds, "zipf"), at_most=1.5),
    *(
        Bar(
            f"image model, miss, rows/s against the model by itself, {asked}",
            _against(
                LIMIT,
                requests_per_second,
                "miss",
                experiment="limit",
                model="digits",
                connections=connections,
                rows=rows,
            ),
            at_least=0.7,
        )
        for rows, connections, asked in (
            (0, CONNECTIONS, "single rows"),
            (64, ROWS_CONNECTIONS, "64 rows a request"),
            (512, ROWS_CONNECTIONS, "512 rows a request"),
        )
    ),
    *(
        Bar(
            f"image model, miss, batched against not, {asked}",
            _against(
                "unbatched",
                requests_per_second,
                "miss",
                experiment="limit",
                model="digits",
                connections=connections,
                rows=rows,
            ),
            at_least=2,
        )
        for rows, connections, asked in ((0, CONNECTIONS, "single rows"), (64, ROWS_CONNECTIONS, "64 rows a request"))
    ),
    Bar("hit, with the log against without", _against("unlogged", requests_per_second, "hit", experiment="log"), 0.8),
    Bar("miss, with the log against without", _against("unlogged", requests_per_second, "miss", experiment="log"), 0.8),
    Bar(
        "miss, Redis stopped against running",
        _against("shoal", requests_per_second, "miss", experiment="redis", subject="without-redis"),
        at_least=0.95,
    ),
    Bar("memory of each further worker", _further_worker_mb, at_most=60, unit=" MB"),
)
