"""The end of a run: what was measured, the exit code, the tables, the HTML report."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

from locust.env import Environment

from loadtest import report, verdict
from loadtest.payloads import zipf
from loadtest.ramp import Ramp
from loadtest.scenarios import SCENARIOS
from loadtest.shapes import Step, knee
from loadtest.tally import Latencies, tiers

# Where Locust's own tables go.
tables_logger = logging.getLogger("locust.stats_logger")


def give_verdict(environment: Environment, options: Namespace) -> None:
    """Sets the exit code and adds to the HTML report. The tables are printed as Locust quits, below its own."""
    steps = environment.shape_class.steps() if isinstance(environment.shape_class, Ramp) else []
    measured = _measured(environment, options.scenario, steps)
    judgements = verdict.judge(verdict.read_objectives(Path(options.objectives), options.scenario), measured)
    code = environment.process_exit_code = verdict.exit_code(judgements, measured)
    shown = report.tables(
        measured, judgements, steps, title=f"{options.scenario} on {options.model}, requests load-{options.name}-*"
    )

    def print_tables(**_: Any) -> None:
        for table in shown:
            tables_logger.info("%s\n", table.text())
        if code == verdict.NOTHING_MEASURED:
            tables_logger.info("Nothing was measured: no request was answered.")

    environment.events.quit.add_listener(print_tables)  # type: ignore[no-untyped-call]
    if options.html_file and (page := Path(options.html_file)).exists():
        page.write_text(report.with_section(page.read_text(), shown, measured.tiers))


def _measured(environment: Environment, scenario: str, steps: list[Step]) -> verdict.Measured:
    total = environment.stats.total
    found = tiers(environment.stats.entries)
    sent = SCENARIOS[scenario]
    draws = sum(tier.answers for tier in found) if sent.bodies == "zipf" and sent.mix.keys() == {"single"} else None
    return verdict.Measured(
        requests=total.num_requests,
        failures=total.num_failures,
        requests_per_second=total.total_rps,
        latencies=Latencies(total.response_times),
        tiers=found,
        ideal_hit_rate=None if draws is None else zipf().ideal_hit_rate(draws),
        knee=knee(steps),
    )
