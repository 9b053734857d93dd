"""What can be chosen on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.bench import bars, experiments, growth, measure, picture
from loadtest.bench.experiments import Experiment
from loadtest.bench.generated import CONVNETS


@dataclass(frozen=True, slots=True)
class Options:
    """rounds: of each load. seconds: of a round. connections: of the load generator, for all but what varies them."""

    experiments: list[Experiment]
    rounds: int
    seconds: int
    connections: int
    reports: Path
    chart: Path | None

    def as_json(self) -> dict[str, Any]:
        return {
            "rounds": self.rounds,
            "seconds": self.seconds,
            "connections": self.connections,
            "experiments": [each.name for each in self.experiments],
        }


def known(connections: int, sizes: dict[str, Sequence[int]] | None = None) -> dict[str, Experiment]:
    """All there are, in the order in which they run."""
    made = [*experiments.experiments(connections), *growth.experiments(connections, sizes or {})]
    return {each.name: each for each in made}


def parse(about: str | None, arguments: list[str] | None = None) -> Options:
    """An empty value stands for the default, as Make hands on what was not given."""
    names = known(bars.CONNECTIONS)
    listed = [f"  {each.name:<16} {each.about}{'' if each.by_default else ' *'}" for each in names.values()]
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["experiments (* only when asked for):", *listed]),
    )

    def numbers(text: str) -> list[int]:
        found = [int(part) for part in text.split(",") if part]
        if any(each < 1 for each in found):
            raise ValueError
        return sorted(set(found))

    def number(text: str) -> int:
        [found] = numbers(text) or [0]
        return found

    parser.add_argument("--only", default="", help="experiments, separated by commas; all (default: those without *)")
    parser.add_argument("--rounds", type=number, help=f"of each load (default: {measure.ROUNDS})")
    parser.add_argument("--seconds", type=number, help=f"of a round (default: {measure.SECONDS})")
    parser.add_argument(
        "--connections",
        type=number,
        help=f"of the load generator (default: {bars.CONNECTIONS}, which the bars are for)",
    )
    parser.add_argument(
        "--sizes",
        type=numbers,
        default=[],
        help="of what a single growth-… varies, or the models of cost in us a row, separated by commas",
    )
    parser.add_argument("--reports", default="reports", help="where the report goes")
    parser.add_argument("--chart", default="", help=f"where a picture goes, an SVG (of {picture.EXPERIMENT})")
    given = parser.parse_args(arguments)

    only = [name for name in given.only.split(",") if name] or [each.name for each in names.values() if each.by_default]
    if only == ["all"]:
        only = list(names)
    if unknown := [name for name in only if name not in names]:
        parser.error(f"--only: expected some of {', '.join(names)}, or all, got {', '.join(unknown)}")
    if given.sizes and (len(only) > 1 or not names[only[0]].sizes):
        parser.error(f"--sizes: expected one of {', '.join(growth.MAKERS)} in --only, got {', '.join(only)}")
    if given.sizes and only == ["cost"] and (unknown_models := set(given.sizes) - CONVNETS.keys()):
        parser.error(f"--sizes: expected some of {sorted(CONVNETS)} us a row, got {sorted(unknown_models)}")
    if given.chart and picture.EXPERIMENT not in only:
        parser.error(f"--chart: expected {picture.EXPERIMENT} in --only, got {', '.join(only)}")
    connections = given.connections or bars.CONNECTIONS
    chosen = known(connections, {only[0]: given.sizes} if given.sizes else None)
    return Options(
        experiments=[each for each in chosen.values() if each.name in only],
        rounds=given.rounds or measure.ROUNDS,
        seconds=given.seconds or measure.SECONDS,
        connections=connections,
        reports=Path(given.reports),
        chart=Path(given.chart) if given.chart else None,
    )
