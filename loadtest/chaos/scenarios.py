"""The list of bad days, in the order in which they come."""

from __future__ import annotations

from loadtest.chaos import overload
from loadtest.chaos.scenario import Scenario

_OVERLOAD = "goodput stays at {} of the peak, the rest get 429 with a Retry-After within {:g} s, memory stays flat"

SCENARIOS = [
    Scenario(
        "overload-dear",
        "three times as many requests as a dear model answers at most, for a minute",
        _OVERLOAD.format(overload.DEAR_GOODPUT, overload.REFUSAL_SECONDS),
        overload.dear,
    ),
    Scenario(
        "overload-cheap",
        "the same with a model that costs less than the HTTP around it",
        _OVERLOAD.format(overload.CHEAP_GOODPUT, overload.CHEAP_REFUSAL_SECONDS),
        overload.cheap,
    ),
]


def chosen(only: str, *, quick: bool) -> list[Scenario]:
    """Those whose names begin with one of these, separated by commas; all by default, of the quick ones if quick.

    Raises:
        ValueError: a name that no scenario begins with.
    """
    wanted = [name for name in only.split(",") if name]
    for name in wanted:
        if not any(each.name.startswith(name) for each in SCENARIOS):
            raise ValueError(f"expected some of {', '.join(each.name for each in SCENARIOS)}, got {name!r}")
    if wanted:
        return [each for each in SCENARIOS if each.name.startswith(tuple(wanted))]
    return [each for each in SCENARIOS if each.in_quick or not quick]
