"""Break Shoal's parts one after another under a steady load, and hold what happens against what is promised. Exits with
0 if every promise was kept, 1 if not, 2 if a part could not even be broken or mended."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.bench import machine
from loadtest.chaos import report
from loadtest.chaos.ground import Ground
from loadtest.chaos.scenario import Effort, NotHere, Scenario
from loadtest.chaos.scenarios import CONTAINERS, SCENARIOS, chosen
from tests.servers import ROOT

BROKEN, CANNOT = 1, 2
SOAK_SECONDS, QUICK_SOAK_SECONDS = 120, 20


def say(line: str) -> None:
    print(f"chaos: {line}", flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """An empty value stands for the default, as Make hands on what was not given."""
    width = max(len(each.name) for each in (*SCENARIOS, *CONTAINERS))

    def listed(scenarios: Sequence[Scenario]) -> str:
        return "\n".join(f"  {each.name:<{width}}  {each.about}" for each in scenarios)

    parser = argparse.ArgumentParser(
        prog="python -m loadtest.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"scenarios:\n{listed(SCENARIOS)}\n\nof containers, --stack compose:\n{listed(CONTAINERS)}",
    )
    parser.add_argument("--only", default="", help="names of scenarios or their beginnings, separated by commas")
    parser.add_argument("--stack", default="", help="native (default), or compose: containers, on a Docker engine")
    parser.add_argument("--quick", default="", help="anything but 0: fewer requests, the shorter scenarios; for CI")
    parser.add_argument("--duration", default="", help=f"of the soak, e.g. 90s or 30m (default: {SOAK_SECONDS}s)")
    parser.add_argument("--list", action="store_true", help="say what there is, with what is promised")
    parser.add_argument("--reports", default="reports", help="where the report goes")
    options = parser.parse_args(arguments)
    options.quick = options.quick not in ("", "0")
    try:
        options.seconds = _seconds(options.duration) or (QUICK_SOAK_SECONDS if options.quick else SOAK_SECONDS)
        options.scenarios = chosen(options.only, quick=options.quick, stack=options.stack)
    except ValueError as error:
        parser.error(str(error))
    return options


def _seconds(text: str) -> float:
    """Raises ValueError."""
    if not text:
        return 0
    number, unit = (text[:-1], text[-1]) if text[-1] in "smh" else (text, "s")
    if not number.isdecimal():
        raise ValueError(f"--duration: expected e.g. 90s or 30m, got {text!r}")
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def run(options: argparse.Namespace) -> int:
    # Not in /tmp: that may be memory, where an fsync costs nothing.
    (ROOT / "var").mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="chaos-", dir=ROOT / "var"))
    ground = Ground(root)
    effort = Effort(options.quick, options.seconds, say)
    days: list[report.Day] = []
    stuck: list[str] = []
    skipped: list[str] = []
    try:
        described = machine.describe(root)
        say(machine.in_words(described))
        for scenario in options.scenarios:
            begun = time.monotonic()
            say(f"{scenario.name}: {scenario.about}")
            try:
                days.append((scenario, scenario.run(ground, effort)))
            except NotHere as reason:
                ground.clear()
                skipped.append(f"{scenario.name}: NOT DONE HERE: {reason}")
                continue
            except Exception:  # noqa: BLE001  the others still get their turn, on new ground
                stuck.append(scenario.name)
                traceback.print_exc()
                say(f"{scenario.name} could not be carried through; what its servers said is in {root}")
                ground.clear()
                continue
            verdict = "BROKEN" if days[-1][1].broken else "kept"
            say(f"{scenario.name}: {verdict} ({time.monotonic() - begun:.0f} s)")
    except KeyboardInterrupt:
        say("interrupted; what is written is of the scenarios that were complete")
    finally:
        ground.clear()
    if not stuck:
        shutil.rmtree(root, ignore_errors=True)
    if days:
        _write(days, described, options)
    for line in skipped:
        say(line)
    if stuck or not days:
        say(f"not carried through: {', '.join(stuck) or 'any'}")
        return CANNOT
    return BROKEN if any(outcome.broken for _, outcome in days) else 0


def _write(days: list[report.Day], described: dict[str, Any], options: argparse.Namespace) -> None:
    stem = Path(options.reports) / f"chaos-{time.strftime('%Y%m%d-%H%M%S')}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    chosen_options = {
        "quick": options.quick,
        "only": options.only,
        "stack": options.stack,
        "soak_seconds": options.seconds,
    }
    stem.with_suffix(".json").write_text(json.dumps(report.as_json(days, described, chosen_options), indent=1))
    stem.with_suffix(".html").write_text(report.page(days, described))
    print(f"\n{report.table(days).text()}\n")
    for line in report.remarks(days):
        print(line)
    print(f"\n{stem}.html, {stem}.json")


def main() -> int:
    options = parse()
    if options.list:
        for each in options.scenarios:
            print(f"{each.name}\n    {each.about}\n    promised: {each.promise}")
        return 0
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
