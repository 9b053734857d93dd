"""A bar, and whether what was measured is above it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from loadtest.bench.results import Results, Spread

Measured = Callable[[Results], Spread | None]
"""None where it was not measured."""


@dataclass(frozen=True, slots=True)
class Bar:
    """at_least or at_most: what must be kept. stretch: what would be better still."""

    what: str
    measured: Measured
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


def judge(results: Results, bars: Iterable[Bar]) -> list[Verdict]:
    """Of each bar that was measured."""
    return [Verdict(bar, spread) for bar in bars if (spread := bar.measured(results)) is not None]
