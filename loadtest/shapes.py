"""Users in steps that double, and the step where more users stop to pay off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from loadtest.tally import Latencies, difference

STEPS = 6
# Two seconds of a step do not count: the one in which it begins, and the one in which its users connect.
SHORTEST_STEP_SECONDS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How many users at what time."""

    levels: list[int]
    step_seconds: float

    @classmethod
    def doubling(cls, users: int, seconds: float) -> Plan:
        """Steps of equal length whose last has `users`. 50 users, 30 s: 2, 4, 7, 13, 25, 50; fewer in less time."""
        steps = max(1, min(STEPS, int(seconds // SHORTEST_STEP_SECONDS)))
        levels = sorted({-(-users // 2**step) for step in range(steps)})
        return cls(levels, seconds / len(levels))

    def step_at(self, elapsed_seconds: float) -> int | None:
        """Index of the step; None once all are over."""
        step = int(elapsed_seconds // self.step_seconds)
        return step if step < len(self.levels) else None


@dataclass(frozen=True, slots=True)
class Mark:
    """Locust's statistics as a step began."""

    users: int
    unix_seconds: float
    latencies: Latencies


@dataclass(frozen=True, slots=True)
class Step:
    """What was measured while so many users asked."""

    users: int
    requests_per_second: float
    latencies: Latencies

    @property
    def power(self) -> float:
        """Throughput divided by mean latency, which by Little's law is throughput squared by users, up to a constant.

        It grows while throughput does, and falls once more users only wait for each other.
        Source: L. Kleinrock, Power and deterministic rules of thumb for probabilistic problems (ICC 1979).
        """
        return self.requests_per_second**2 / self.users


def measure(marks: list[Mark], per_second: Mapping[int, int], end: Mark) -> list[Step]:
    """The steps between marks, in order.

    Args:
        per_second: answers in each second of Unix time. The second in which users were started does not count.
        end: the statistics when all was over.
    """
    steps = []
    for begin, until in pairwise([*marks, end]):
        seconds = range(int(begin.unix_seconds) + 2, int(until.unix_seconds))
        if not seconds:
            continue
        answers = sum(per_second.get(second, 0) for second in seconds)
        steps.append(Step(begin.users, answers / len(seconds), difference(until.latencies, begin.latencies)))
    return steps


def knee(steps: list[Step]) -> Step | None:
    """The step with the greatest power. None if nothing was measured."""
    return max((step for step in steps if step.requests_per_second), key=lambda step: step.power, default=None)
