"""Measure Shoal with everything on against a ceiling, a tutorial and nginx alone. Exits with 0 if all bars that were
measured are kept, 1 if not, 2 if nothing could be measured."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from loadtest.bench import bars, machine, measure, picture, report, tables, wrk
from loadtest.bench.environment import ROOT
from loadtest.bench.options import Options, parse
from loadtest.bench.results import Results
from loadtest.bench.verdict import judge
from loadtest.bench.wrk import CannotMeasure

MISSED, CANNOT = 1, 2


def say(line: str) -> None:
    print(f"bench: {line}", flush=True)


def run(options: Options) -> int:
    # Not in /tmp: that may be memory, where an fsync costs nothing.
    (ROOT / "var").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / "var"))
    results = Results()
    try:
        described = machine.describe(folder, wrk.find())
        say(machine.in_words(described))
        effort = measure.Effort(options.rounds, options.seconds)
        for each in options.experiments:
            say(f"{each.name}: about {effort.minutes(each):.0f} minutes")
        say(f"in all: about {sum(map(effort.minutes, options.experiments)):.0f} minutes")
        for each in options.experiments:
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


def _write(results: Results, described: dict[str, object], options: Options) -> int:
    verdicts = judge(results, bars.BARS)
    stem = options.reports / f"bench-{time.strftime('%Y%m%d-%H%M%S')}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(
        json.dumps(report.as_json(results, verdicts, described, options.as_json()), indent=1)
    )
    stem.with_suffix(".html").write_text(report.page(results, verdicts, described))
    if options.chart is not None:
        options.chart.write_text(picture.draw(results, described))
    for table in tables.of(results, verdicts):
        print(f"\n{table.text()}")
    print(f"\n{report.NOTE}\n{stem}.html, {stem}.json" + (f", {options.chart}" if options.chart else ""))
    return 0 if all(each.is_kept for each in verdicts) else MISSED


def main() -> int:
    options = parse(__doc__)
    try:
        return run(options)
    except CannotMeasure as error:
        say(str(error))
        return CANNOT


if __name__ == "__main__":
    sys.exit(main())
