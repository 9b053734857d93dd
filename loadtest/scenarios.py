"""What each scenario sends. Every user asks again as soon as it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal, NamedTuple

from loadtest.payloads import DIGITS, HOT_ROWS, PENGUINS, ZIPF_ROWS, Model, pool, unique_keys, zipf

Kind = Literal["single", "batch", "other", "page", "lookup", "job"]
BATCH_ROWS = (4, 32)
JOB_ROWS = 500


@dataclass(frozen=True, slots=True)
class Scenario:
    """summary: one line for --help. bodies: which rows. mix: kinds of request by weight. ramp: users in steps."""

    summary: str
    bodies: Literal["hot", "zipf", "unique"]
    mix: Mapping[Kind, int] = field(default_factory=lambda: {"single": 1})
    ramp: bool = False


SCENARIOS = {
    "hot": Scenario(f"{HOT_ROWS} bodies, over and over: all from cache", "hot"),
    "zipf": Scenario(f"{ZIPF_ROWS} bodies, some far more popular than others (s = 1.1)", "zipf"),
    "unique": Scenario("every body new: the model runs for each", "unique"),
    "mixed": Scenario(
        "zipf singles, batches, the other model, and queries of the prediction log",
        "zipf",
        # page: the newest predictions. lookup: the one just answered, which must be in the log.
        {"single": 70, "batch": 10, "other": 10, "page": 2, "lookup": 8},
    ),
    "jobs": Scenario(
        f"zipf singles, and jobs of {JOB_ROWS} rows that are watched until every row is answered",
        "zipf",
        {"single": 99, "job": 1},
    ),
    "ramp": Scenario("zipf, with the users in steps that double: where is the knee?", "zipf", ramp=True),
}


class Drawn(NamedTuple):
    """number: the same for equal rows; None if the row is never sent again."""

    number: int | None
    row: bytes


class Rows:
    """The rows of one model for all users of a process."""

    def __init__(self, model: Model, bodies: Literal["hot", "zipf", "unique"], keys: Iterator[int], seed: int) -> None:
        """keys: see payloads.unique_keys."""
        self._draw: Callable[[Random], Drawn]
        if bodies == "unique":
            self._draw = lambda _: Drawn(None, model.distinct(next(keys)))
            return
        rows = pool(model, HOT_ROWS if bodies == "hot" else ZIPF_ROWS, seed)
        if bodies == "hot":
            choose: Callable[[Random], int] = lambda numbers: numbers.randrange(len(rows))  # noqa: E731
        else:
            choose = zipf().draw

        def draw(numbers: Random) -> Drawn:
            number = choose(numbers)
            return Drawn(number, rows[number])

        self._draw = draw

    def draw(self, numbers: Random) -> Drawn:
        return self._draw(numbers)


def other(model: Model) -> Model:
    return PENGUINS if model is DIGITS else DIGITS


class Traffic:
    """What the users of one process draw from."""

    def __init__(self, scenario: Scenario, model: Model, *, process: int, seed: int) -> None:
        """process: this process's index in the run."""
        keys = unique_keys(process)
        self.model = model
        self.rows = {each.name: Rows(each, scenario.bodies, keys, seed) for each in (model, other(model))}
        self._kinds: list[Kind] = [*scenario.mix]
        self._weights = [*scenario.mix.values()]

    def kind(self, numbers: Random) -> Kind:
        return numbers.choices(self._kinds, self._weights)[0]
