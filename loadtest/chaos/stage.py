"""A stack under a steady load, for something to happen to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from api.settings import Settings
from loadtest.chaos.ground import Ground, wait_until_whole
from loadtest.chaos.load import Load
from loadtest.chaos.oracle import Oracle
from loadtest.chaos.questions import Questions
from loadtest.chaos.reconcile import logged, reconcile, spooled
from loadtest.chaos.scenario import Effort, Outcome, must_not_fail, outcome
from tests.servers import eventually
from tests.stack import Stack

_SLOW_SECONDS = 0.25  # of an answer; a hundred times what it takes on a good day
_REPEAT_EVERY = 4


class Stage:
    """What a fault gets: the stack to break, and a sense of time in requests."""

    def __init__(self, stack: Stack, load: Load, effort: Effort) -> None:
        self.stack = stack
        self.load = load
        self.effort = effort
        self.ended_at = 0.0
        self.made: dict[str, str] = {}
        """What a fault has seen that is worth a line in the report."""

    def go_on(self, share: float = 0.1) -> None:
        """Until that share of the scenario's requests was sent."""
        goal = len(self.load.ledger) + self.effort.requests * share
        eventually(lambda: len(self.load.ledger) >= goal, within_seconds=120, because="the load goes on")

    def wait(self, seconds: float, quick_seconds: float) -> None:
        time.sleep(quick_seconds if self.effort.quick else seconds)

    def over(self) -> None:
        """The fault ends here: what comes now is recovery."""
        self.ended_at = time.monotonic()


Fault = Callable[[Stage], None]


def bad_day(
    fault: Fault,
    *,
    replicas: int = 3,
    env: Mapping[str, str] | Callable[[Ground], Mapping[str, str]],
    but: frozenset[int] = frozenset(),
    worst_seconds: float = 20,
    recovery_seconds: float = 30,
    judge: Callable[[Stage, Outcome], None] | None = None,
) -> Callable[[Ground, Effort], Outcome]:
    """A scenario: a load, in the midst of which a fault breaks something and mends it again.

    Args:
        but: statuses that are an honest no; every other failure breaks the promise.
        worst_seconds, recovery_seconds: what is promised of the slowest answer, and of the time until all is as before.
        judge: further promises.
    """

    def run(ground: Ground, effort: Effort) -> Outcome:
        # One in four asks again what others have asked: caches have something to get wrong.
        questions = Questions(f"run-{time.time_ns():x}", time.time_ns() // 10**6, repeat_every=_REPEAT_EVERY)
        stack = ground.stack(replicas, env(ground) if callable(env) else env)
        with Load(stack.nginx.port, questions, effort.rate) as load:
            stage = Stage(stack, load, effort)
            stage.go_on()
            fault(stage)
            ended = stage.ended_at or time.monotonic()
            wait_until_whole(stack)
            whole = time.monotonic()
            stage.go_on(max(0.2, 1 - len(load.ledger) / effort.requests))
        wait_until_whole(stack)
        rows, waiting = logged(stack.postgres.dsn), spooled(stack.folder / "spool")
        oracle = Oracle(Settings().model_repository)
        reckoning = reconcile(load.ledger, questions, rows, waiting, oracle.check)
        made = outcome(load.ledger, reckoning, max(whole, last_slow(load, ended)) - ended)
        must_not_fail(made, but=but)
        made.figures |= stage.made
        made.must(
            made.worst_seconds <= worst_seconds, f"an answer took {made.worst_seconds:.1f} s, not {worst_seconds:g}"
        )
        made.must(
            made.recovered_seconds <= recovery_seconds,
            f"it took {made.recovered_seconds:.1f} s to recover, not {recovery_seconds:g}",
        )
        if judge is not None:
            judge(stage, made)
        return made

    return run


def last_slow(load: Load, since: float) -> float:
    """When the last request was due that failed or was slow; since then, if none was."""
    ledger = load.ledger
    late = (
        ledger.due[number]
        for number, status in enumerate(ledger.status)
        if ledger.due[number] >= since and (status != 200 or ledger.latency(number) > _SLOW_SECONDS)
    )
    return max(late, default=since)
