"""How figures are written in tables."""

from __future__ import annotations

from loadtest.bench.results import Spread

NONE = "-"


def number(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f}"


def ms(seconds: float | None, digits: int = 1) -> str:
    return f"{seconds * 1e3:.{digits}f} ms" if seconds else NONE


def us(seconds: float | None) -> str:
    return NONE if seconds is None else f"{seconds * 1e6:.0f} us"


def mb(size: float) -> str:
    """size: in bytes."""
    return f"{size / 1e6:.0f} MB" if size else NONE


def ratio(spread: Spread | None, unit: str = "x") -> str:
    return NONE if spread is None else f"{spread.median:.2f}{unit}"


def rounds(spread: Spread | None) -> str:
    """What a median is the median of."""
    return NONE if spread is None else f"{spread.least:.2f} to {spread.greatest:.2f}, {spread.count}"
