"""What a bad day is: what is broken, what it came to, and which promises were broken by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loadtest.chaos.ground import Ground
from loadtest.chaos.ledger import Ledger, in_words
from loadtest.chaos.reconcile import Reckoning

_EXAMPLES = 8


def expect(condition: object, otherwise: str) -> None:
    """Raises AssertionError: the scenario did not go as it must to mean anything."""
    if not condition:
        raise AssertionError(otherwise)


class NotHere(Exception):
    """This machine lacks what the scenario takes; the message says what."""


class Effort(NamedTuple):
    """How much of it. The quick one is for CI: it shows that all of this works, on fewer requests."""

    quick: bool
    soak_seconds: float
    say: Callable[[str], None]

    @property
    def requests(self) -> int:
        """Of each scenario, at least."""
        return 800 if self.quick else 10_000

    @property
    def rate(self) -> float:
        """Requests a second: a tenth of what two cores do, so that what is slow is slow because of what broke."""
        return 200 if self.quick else 300


@dataclass(slots=True)
class Outcome:
    """What a scenario came to."""

    reckoning: Reckoning
    worst_seconds: float
    """The longest that an answer took, from when it was due to be asked for."""
    recovered_seconds: float
    """From the end of the fault until all was as before: answers fast, every part up, the spool empty."""
    figures: dict[str, str] = field(default_factory=dict)
    """What else was measured, for people."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """The same for programs."""
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Name with its unit, to points: seconds since the beginning, value."""
    broken: list[str] = field(default_factory=list)
    """Promises that were not kept."""
    examples: list[str] = field(default_factory=list)
    """Of requests that failed, and of what is wrong with the log."""

    def must(self, kept: bool, promise: str) -> None:
        if not kept:
            self.broken.append(promise)


class Scenario(NamedTuple):
    """One row of the report."""

    name: str
    about: str
    promise: str
    run: Callable[[Ground, Effort], Outcome]
    """Raises NotHere, or AssertionError where a part could not even be broken or mended."""


def outcome(ledger: Ledger, reckoning: Reckoning, recovered_seconds: float) -> Outcome:
    """With what is promised whatever happens: nothing lost, nothing twice, nothing else than was answered."""
    answers = ledger.latencies(200)
    made = Outcome(reckoning, answers[-1] if answers else 0.0, recovered_seconds)
    made.examples = [
        *reckoning.examples,
        *dict.fromkeys(reason for number, reason in ledger.reasons.items() if ledger.status[number] != 429),
    ][:_EXAMPLES]
    for count, what in (
        (reckoning.lost, "answered and not in the log"),
        (reckoning.duplicated, "in the log more than once"),
        (reckoning.altered, "in the log with other content than was answered"),
        (reckoning.unasked, "in the log without a request that was answered"),
        (reckoning.wrong, "answered with what the model does not say"),
        (reckoning.still_spooled, "still in the spool"),
    ):
        made.must(not count, f"{count} {what}")
    return made


def must_not_fail(made: Outcome, *, but: frozenset[int] = frozenset()) -> None:
    """but: statuses that are an honest no."""
    failed = {status: count for status, count in made.reckoning.statuses.items() if status not in but}
    what = ", ".join(f"{count} {in_words(status)}" for status, count in sorted(failed.items()))
    made.must(not failed, f"failed: {what}")
