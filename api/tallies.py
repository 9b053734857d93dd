"""Counting on the path of a prediction: in plain numbers, which `flush` brings to prometheus_client.

A count of prometheus_client's takes a lock, asks for the pid and writes to a mapped file, and a histogram does so three
times. A cached prediction had about fifteen of them, which was 15 % of its CPU time. A tally is an addition, or an
append to a list; `flush` is called a few times a second, before each look at the metrics, and at the end. What a worker
had not flushed when it was killed is missing from the metrics, a quarter of a second's worth; never from the log.

Only for the event loop's thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable
from typing import Protocol

from prometheus_client import Counter, Histogram


class _Tally(Protocol):
    def flush(self) -> None: ...


_tallies: list[_Tally] = []


class CounterTally:
    """Stands before a counter without labels, or a labelled child of one."""

    __slots__ = ("_counter", "_pending")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._pending = 0
        _tallies.append(self)

    def inc(self, amount: int = 1) -> None:
        self._pending += amount

    def flush(self) -> None:
        if self._pending:
            self._counter.inc(self._pending)
            self._pending = 0


class HistogramTally:
    """Stands before a histogram without labels, or a labelled child of one."""

    __slots__ = ("_histogram", "_pending", "observe")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._pending: list[float] = []
        self.observe: Callable[[float], None] = self._pending.append
        _tallies.append(self)

    def flush(self) -> None:
        if not self._pending:
            return
        # What prometheus_client's own observe does, for all values at once: the bucket that a value falls into, not
        # those above it; they are added up when the metrics are read.
        bounds = self._histogram._upper_bounds
        for bucket, values in Counts(bisect_left(bounds, value) for value in self._pending).items():
            self._histogram._buckets[bucket].inc(values)
        self._histogram._sum.inc(sum(self._pending))
        self._pending.clear()


def flush() -> None:
    """Brings all that was counted to prometheus_client."""
    for tally in _tallies:
        tally.flush()
