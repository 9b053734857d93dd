"""What can be chosen on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
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
    parser = _parser(about, names.values())
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


def _parser(about: str | None, experiments: Iterable[Experiment]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["experiments, and about how many minutes each takes:", *map(_described, experiments)]),
    )
    parser.add_argument(
        "--only", default="", help="experiments, separated by commas, or all (default: those without *)"
    )
    parser.add_argument("--rounds", type=_number, help=f"of each load (default: {measure.ROUNDS})")
    parser.add_argument("--seconds", type=_number, help=f"of a round (default: {measure.SECONDS})")
    default = f"{bars.CONNECTIONS}, which the bars are for"
    parser.add_argument("--connections", type=_number, help=f"of the load generator (default: {default})")
    sizes = "separated by commas, of what one growth-… varies; or of cost, the us a row of its models"
    parser.add_argument("--sizes", type=_numbers, default=[], help=sizes)
    parser.add_argument("--reports", default="reports", help="where the report goes")
    parser.add_argument("--chart", default="", help=f"where a picture of {picture.EXPERIMENT} goes, an SVG")
    return parser


def _described(each: Experiment) -> str:
    minutes = measure.Effort(measure.ROUNDS, measure.SECONDS).minutes(each)
    return f"  {each.name:<16}{minutes:>3.0f}{' ' if each.by_default else '*'} {each.about}"


def _numbers(text: str) -> list[int]:
    parts = [part for part in text.split(",") if part]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"expected whole numbers above 0, separated by commas, got {text!r}")
    return sorted(set(map(int, parts)))


def _number(text: str) -> int:
    """0 for none."""
    found = _numbers(text) or [0]
    if len(found) > 1:
        raise argparse.ArgumentTypeError(f"expected one number, got {text!r}")
    return found[0]
