"""The ramp as Locust runs it."""

from __future__ import annotations

import time

from locust import LoadTestShape
from locust.runners import Runner

from loadtest.shapes import Mark, Plan, Step, measure
from loadtest.tally import Latencies


class Ramp(LoadTestShape):
    """Users in steps that double. Abstract, so that Locust does not take it where another scenario was asked for."""

    abstract = True

    def __init__(self, runner: Runner, *, users: int, seconds: float) -> None:
        """users: of the last step. seconds: of all steps together."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.runner: Runner = runner
        self.plan = Plan.doubling(users, seconds)
        self.marks: list[Mark] = []
        self._step: int | None = None

    def tick(self) -> tuple[int, float] | None:
        step = self.plan.step_at(self.get_run_time())  # type: ignore[no-untyped-call]
        if step is None:
            return None
        users = self.plan.levels[step]
        if step != self._step:
            self._step = step
            self.marks.append(self._mark(users))
        return users, users  # all that are new within a second

    def steps(self) -> list[Step]:
        """What was measured in each step, once it is over."""
        return measure(self.marks, self.runner.stats.total.num_reqs_per_sec, self._mark(0))

    def _mark(self, users: int) -> Mark:
        return Mark(users, time.time(), Latencies(self.runner.stats.total.response_times))
