"""Measure Shoal with everything on against a ceiling, a tutorial and nginx alone. Exits with 0 if all bars that were
measured are kept, 1 if not, 2 if nothing could be measured."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from loadtest.bench import bars, machine, measure, report, wrk
from loadtest.bench.experiments import Experiment, experiments
from loadtest.bench.results import Results
from loadtest.bench.stack import ROOT
from loadtest.bench.wrk import CannotMeasure

MISSED, CANNOT = 1, 2


def say(line: str) -> None:
    print(f"bench: {line}", flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """An empty value stands for the default, as Make hands on what was not given."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="experiments:\n" + "\n".join(f"  {each.name:<12} {each.about}" for each in experiments(64)),
    )

    def number(text: str) -> int | None:
        return int(text) if text else None

    parser.add_argument("--rounds", type=number, help="of each load (default: 5)")
    parser.add_argument("--seconds", type=number, help="of a round (default: 5)")
    parser.add_argument(
        "--connections", type=number, help="of the load generator (default: 64, which the bars are for)"
    )
    parser.add_argument("--only", default="", help="experiments, separated by commas (default: all)")
    parser.add_argument("--reports", default="reports", help="where the report goes")
    options = parser.parse_args(arguments)
    options.rounds, options.seconds = options.rounds or measure.ROUNDS, options.seconds or measure.SECONDS
    options.connections = options.connections or bars.CONNECTIONS
    known = {each.name: each for each in experiments(options.connections)}
    names = [name for name in options.only.split(",") if name] or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--only: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    options.experiments = [each for each in known.values() if each.name in names]
    return options


def run(options: argparse.Namespace) -> int:
    # Not in /tmp: that may be memory, where an fsync costs nothing.
    (ROOT / "var").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / "var"))
    results = Results()
    try:
        described = machine.describe(folder, wrk.find())
        say(machine.in_words(described))
        effort = measure.Effort(options.rounds, options.seconds)
        chosen: list[Experiment] = options.experiments
        say(f"{', '.join(each.name for each in chosen)}: about {sum(map(effort.minutes, chosen)):.0f} minutes")
        for each in chosen:
            state = folder / each.name
            state.mkdir()
            results.cells += measure.run(each, effort, state, say)
            shutil.rmtree(state)
    except KeyboardInterrupt:
        say("interrupted; what is written is of the experiments that were complete")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not results.cells:
        raise CannotMeasure("nothing was measured")
    return _write(results, described, options)


def _write(results: Results, described: dict[str, object], options: argparse.Namespace) -> int:
    verdicts = bars.judge(results)
    stem = Path(options.reports) / f"bench-{time.strftime('%Y%m%d-%H%M%S')}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    chosen = {"rounds": options.rounds, "seconds": options.seconds, "connections": options.connections}
    chosen["experiments"] = [each.name for each in options.experiments]
    stem.with_suffix(".json").write_text(json.dumps(report.as_json(results, verdicts, described, chosen), indent=1))
    stem.with_suffix(".html").write_text(report.page(results, verdicts, described))
    for table in report.tables(results, verdicts):
        print(f"\n{table.text()}")
    print(f"\n{report.NOTE}\n{stem}.html, {stem}.json")
    return 0 if all(each.is_kept for each in verdicts) else MISSED


def main() -> int:
    try:
        return run(parse())
    except CannotMeasure as error:
        say(str(error))
        return CANNOT


if __name__ == "__main__":
    sys.exit(main())
