"""Runs an experiment: rounds in turns, A B C A B C, so that what changes on the machine meanwhile hits all alike."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.bench import stack as stacks
from loadtest.bench import usage, wrk
from loadtest.bench.experiments import LIMIT, Experiment
from loadtest.bench.exposition import grown, stages_and_tiers
from loadtest.bench.limit import Limit
from loadtest.bench.results import Cell, Round
from loadtest.bench.stack import Stack
from loadtest.bench.workloads import Bodies, Case
from loadtest.bench.wrk import CannotMeasure
from loadtest.payloads import ZIPF_ROWS

ROUNDS = 5
SECONDS = 3  # of a round
WARM_UP_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Effort:
    """rounds: of each load. seconds: of a round."""

    rounds: int
    seconds: int

    def minutes(self, experiment: Experiment) -> float:
        """About how long it takes, with the waits in between."""
        subjects = len(experiment.subjects) + 2 * experiment.with_limit  # the limit imports torch each time
        rounds = len(experiment.cases) * subjects * (self.rounds * (self.seconds + 0.7) + WARM_UP_SECONDS + 0.7)
        starts = 4 * sum(subject.replicas for subject in experiment.subjects if subject.app != "")
        return (rounds + starts + experiment.more_seconds) / 60


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
        started = {each.subject.name: each.start_seconds for each in running}
        if experiment.with_limit:
            started[LIMIT] = 0.0
        cells = {
            (name, case): Cell(experiment.name, name, case, start_seconds=seconds)
            for case in experiment.cases
            for name, seconds in started.items()
        }
        limits = {case.model: Limit(case.model, running[0].models) for case in experiment.cases}
        answered = {each.subject.name: 0 for each in running}
        for case in experiment.cases:
            # One case after the other, as a miss drives out of the caches what zipf has put there.
            for each in running:
                each.try_out(case, bodies)
                answered[each.subject.name] += _warm_up(each, case, bodies)
            for number in range(1, effort.rounds + 1):
                for each in running:
                    measured = _round(each, case, bodies, number, effort.seconds, running)
                    cells[each.subject.name, case].rounds.append(measured)
                    answered[each.subject.name] += _rows(measured.load, case)
                    say(f"{number}/{effort.rounds} {case.name:<24} {each.subject.name:<14} {_line(measured)}")
                if experiment.with_limit:
                    cells[LIMIT, case].rounds.append(_limit(limits[case.model], case, number, effort.seconds))
        for each in running:
            _check_log(each, answered[each.subject.name])
    return list(cells.values())


def _warm_up(each: Stack, case: Case, bodies: Bodies) -> int:
    """Rows that were answered. All that a zipf may ask is asked once: otherwise a slow subject, which gets to fewer of
    the rare bodies in a round, would be measured with a colder cache than a quick one."""
    answered = _rows(_load(each, case, bodies.arguments(case), WARM_UP_SECONDS), case)
    if case.workload == "zipf":
        load = _load(each, case, bodies.each(case), WARM_UP_SECONDS)
        answered += _rows(load, case)
        if load.requests < ZIPF_ROWS:
            seconds = math.ceil(1.2 * ZIPF_ROWS / load.requests_per_second)
            answered += _rows(_load(each, case, bodies.each(case), seconds), case)
    return answered


def _load(each: Stack, case: Case, arguments: list[str], seconds: int) -> wrk.Load:
    paths = ",".join(each.paths(case))
    load = wrk.run(each.url, [paths, *arguments], connections=case.connections, seconds=seconds)
    usage.wait_until_quiet(each.pids)
    return load


def _round(each: Stack, case: Case, bodies: Bodies, number: int, seconds: int, running: list[Stack]) -> Round:
    others = [pid for other in running if other is not each for pid in other.pids]
    metrics_before = each.metrics()
    each.proxied_seconds()  # of what came before
    each.begin_round()
    clocks_before = _clocks(others)
    before = each.cpu_seconds()
    load = _load(each, case, bodies.arguments(case), seconds)
    after = each.cpu_seconds()
    wall, machine, ours, others_used = (now - then for now, then in zip(_clocks(others), clocks_before, strict=True))
    used = {name: after[name] - before[name] for name in after}
    stages, tiers = stages_and_tiers(grown(metrics_before, each.metrics()))
    return Round(
        number=number,
        load=load,
        cpu_seconds=used,
        pss_bytes=each.pss_bytes(),
        others_cpu_seconds=others_used,
        foreign_cpu_seconds=max(machine - ours - others_used - load.cpu_seconds - sum(used.values()), 0.0),
        capacity_seconds=wall * _cores(),
        proxied_seconds=each.proxied_seconds(),
        stages=stages,
        tiers=tiers,
    )


def _clocks(others: list[int]) -> tuple[float, float, float, float]:
    """The time; and CPU seconds so far of the whole machine, of this process, and of the other subjects."""
    return (
        time.monotonic(),
        usage.machine_cpu_seconds(),
        time.process_time(),
        sum(map(usage.cpu_seconds, others)),
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _rows(load: wrk.Load, case: Case) -> int:
    """Rows that were answered."""
    return (load.requests - load.failures) * max(case.rows, 1)


def _limit(limit: Limit, case: Case, number: int, seconds: int) -> Round:
    """As many requests as its rows would fill."""
    load = limit.measure(seconds)
    requests = load.requests // max(case.rows, 1)
    return Round(number, replace(load, requests=requests), capacity_seconds=load.seconds * _cores())


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
    if not measured.is_valid:
        return f"{line}  INVALID: {load.errors}"
    return f"{line}  disturbed" if measured.is_disturbed else line
