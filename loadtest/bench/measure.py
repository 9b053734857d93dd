"""Runs an experiment: rounds in turns, A B C A B C, so that what changes on the machine meanwhile hits all alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.bench import limit, usage, wrk
from loadtest.bench import stack as stacks
from loadtest.bench.experiments import LIMIT, Experiment
from loadtest.bench.exposition import grown, stages_and_tiers
from loadtest.bench.results import Cell, Round
from loadtest.bench.stack import Stack
from loadtest.bench.workloads import Bodies, Case
from loadtest.bench.wrk import CannotMeasure

ROUNDS = 5
SECONDS = 5  # of a round
WARM_UP_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Effort:
    """rounds: of each load. seconds: of a round."""

    rounds: int
    seconds: int

    def minutes(self, experiment: Experiment) -> float:
        """About how long it takes, with the waits in between."""
        subjects = len(experiment.subjects) + 3 * experiment.with_limit  # the limit tries its batch sizes each time
        return len(experiment.cases) * subjects * self.rounds * (self.seconds + 0.7) / 60 + 0.2


def run(experiment: Experiment, effort: Effort, folder: Path, say: Callable[[str], None]) -> list[Cell]:
    """
    Args:
        folder: an empty one for the state of all subjects.
    Raises:
        CannotMeasure: a subject does not start, answers a request wrongly, or has answered rows that it did not log.
    """
    bodies = Bodies(folder)
    with ExitStack() as stack:
        say(f"{experiment.name}: starting {', '.join(each.name for each in experiment.subjects)}")
        running = stacks.start(experiment.subjects, folder, stack)
        cells = {
            (each.subject.name, case): Cell(experiment.name, each.subject.name, case)
            for case in experiment.cases
            for each in running
        }
        if experiment.with_limit:
            cells |= {(LIMIT, case): Cell(experiment.name, LIMIT, case) for case in experiment.cases}
        answered = {each.subject.name: 0 for each in running}
        for case in experiment.cases:
            # One case after the other, as a miss drives out of the caches what zipf has put there.
            for each in running:
                each.try_out(case, bodies)
                answered[each.subject.name] += _rows(_load(each, case, bodies, WARM_UP_SECONDS), case)
            for number in range(1, effort.rounds + 1):
                for each in running:
                    measured = _round(each, case, bodies, number, effort.seconds, running)
                    cells[each.subject.name, case].rounds.append(measured)
                    answered[each.subject.name] += _rows(measured.load, case)
                    say(f"{number}/{effort.rounds} {case.name:<24} {each.subject.name:<14} {_line(measured)}")
                if experiment.with_limit:
                    cells[LIMIT, case].rounds.append(_limit(case, number, effort.seconds))
        for each in running:
            _check_log(each, answered[each.subject.name])
    return list(cells.values())


def _load(each: Stack, case: Case, bodies: Bodies, seconds: int) -> wrk.Load:
    url = f"http://127.0.0.1:{each.port}{case.path}"
    load = wrk.run(url, bodies.arguments(case), connections=case.connections, seconds=seconds)
    usage.wait_until_quiet(each.pids.values())
    return load


def _round(each: Stack, case: Case, bodies: Bodies, number: int, seconds: int, running: list[Stack]) -> Round:
    others = [pid for other in running if other is not each for pid in other.pids.values()]
    metrics_before = each.metrics()
    before, others_before = each.cpu_seconds(), sum(map(usage.cpu_seconds, others))
    load = _load(each, case, bodies, seconds)
    after, others_after = each.cpu_seconds(), sum(map(usage.cpu_seconds, others))
    stages, tiers = stages_and_tiers(grown(metrics_before, each.metrics()))
    return Round(
        number=number,
        load=load,
        cpu_seconds={name: after[name] - before[name] for name in after},
        pss_bytes=each.pss_bytes(),
        others_cpu_seconds=others_after - others_before,
        stages=stages,
        tiers=tiers,
    )


def _rows(load: wrk.Load, case: Case) -> int:
    """Rows that were answered."""
    return (load.requests - load.failures) * max(case.rows, 1)


def _limit(case: Case, number: int, seconds: int) -> Round:
    """As many requests as its rows would fill."""
    load = limit.measure(case.model, seconds)
    return Round(number, replace(load, requests=load.requests // max(case.rows, 1)))


def _check_log(each: Stack, answered: int) -> None:
    """Nothing may be quick by not doing its work. More rows than answers there may be: wrk leaves at its end, and does
    not wait for what is on its way."""
    rows = each.logged_rows()
    if rows is not None and rows < answered:
        raise CannotMeasure(f"{each.subject.name} answered {answered} rows and logged {rows}")


def _line(measured: Round) -> str:
    load = measured.load
    latencies = f"p50 {load.p50_seconds * 1e3:.1f} ms  p99 {load.p99_seconds * 1e3:.1f} ms"
    line = f"{load.requests_per_second:8.0f} requests/s  {latencies}"
    return line if measured.is_valid else f"{line}  INVALID: {load.errors}"
