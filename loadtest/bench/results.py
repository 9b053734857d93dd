"""Rounds, and what is made of them: medians, and ratios of what was measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from loadtest.bench.workloads import Case
from loadtest.bench.wrk import Load

_DISTURBED_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Round:
    """One subject under one load, once.

    cpu_seconds, pss_bytes: by process, those of the load generator not among them. CPU time runs on until the subject
    is quiet again, memory is read then. others_cpu_seconds: what the other subjects used meanwhile, idle;
    foreign_cpu_seconds: all else on the machine, and its host; capacity_seconds: what its cores had to give.
    stages, tiers: seconds by stage and rows by cache tier, as the replicas counted them; empty for other subjects.
    proxied_seconds: mean of a request as nginx saw it; 0 for other subjects.
    """

    number: int
    load: Load
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    pss_bytes: dict[str, int] = field(default_factory=dict)
    others_cpu_seconds: float = 0.0
    foreign_cpu_seconds: float = 0.0
    capacity_seconds: float = 0.0
    proxied_seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    tiers: dict[str, float] = field(default_factory=dict)

    @property
    def is_disturbed(self) -> bool:
        """Something else had more than a twentieth of the machine."""
        return self.foreign_cpu_seconds > _DISTURBED_SHARE * self.capacity_seconds

    @property
    def is_valid(self) -> bool:
        """Only if every request was answered, with a 2xx: a failure is quick, and would look like speed."""
        return self.load.requests > 0 and self.load.failures == 0


Measure = Callable[[Round], float]


def requests_per_second(each: Round) -> float:
    return each.load.requests_per_second


def app_pss_bytes(each: Round) -> float:
    return each.pss_bytes["app"]


def p50_seconds(each: Round) -> float:
    return each.load.p50_seconds


def p99_seconds(each: Round) -> float:
    return each.load.p99_seconds


def cpu_seconds_per_request(each: Round) -> float:
    return sum(each.cpu_seconds.values()) / each.load.requests


def core_seconds_per_request(each: Round) -> float:
    return each.capacity_seconds / each.load.requests


def pss_bytes(each: Round) -> float:
    return sum(each.pss_bytes.values())


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (requests_per_second, p50_seconds, p99_seconds, cpu_seconds_per_request, pss_bytes)
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One subject under one load, all rounds."""

    experiment: str
    subject: str
    case: Case
    rounds: list[Round] = field(default_factory=list)
    start_seconds: float = 0.0
    """From the launch of the subject's app to its first answer."""

    @property
    def valid(self) -> list[Round]:
        return [each for each in self.rounds if each.is_valid]

    @property
    def counted(self) -> list[Round]:
        """Those that are valid; without those that were disturbed, unless there are no others."""
        return [each for each in self.valid if not each.is_disturbed] or self.valid

    def median(self, measure: Measure) -> float | None:
        """None without a valid round."""
        values = [measure(each) for each in self.counted]
        return median(values) if values else None

    def rows_per_second(self) -> float | None:
        requests = self.median(requests_per_second)
        return None if requests is None else requests * max(self.case.rows, 1)

    def as_json(self) -> dict[str, Any]:
        case = self.case
        medians: dict[str, float | None] = {name: self.median(measure) for name, measure in MEASURES.items()}
        medians["rows_per_second"] = self.rows_per_second()
        return {
            "experiment": self.experiment,
            "subject": self.subject,
            "model": case.model,
            "workload": case.workload,
            "connections": case.connections,
            "everyone": case.everyone,
            "rows_per_request": max(case.rows, 1),
            "start_seconds": self.start_seconds,
            "median": medians,
            "peak_pss_bytes": max((pss_bytes(each) for each in self.rounds), default=None),
            "invalid_rounds": len(self.rounds) - len(self.valid),
            "rounds": [_round_as_json(each) for each in self.rounds],
        }


def _round_as_json(each: Round) -> dict[str, Any]:
    load = each.load
    return {
        "number": each.number,
        "valid": each.is_valid,
        "requests": load.requests,
        "seconds": load.seconds,
        "requests_per_second": load.requests_per_second,
        "mean_seconds": load.mean_seconds,
        "p50_seconds": load.p50_seconds,
        "p99_seconds": load.p99_seconds,
        "max_seconds": load.max_seconds,
        "errors": load.errors,
        "cpu_seconds": each.cpu_seconds,
        "generator_cpu_seconds": load.cpu_seconds,
        "others_cpu_seconds": each.others_cpu_seconds,
        "foreign_cpu_seconds": each.foreign_cpu_seconds,
        "capacity_seconds": each.capacity_seconds,
        "pss_bytes": each.pss_bytes,
        "proxied_seconds": each.proxied_seconds,
        "stages": each.stages,
        "tiers": each.tiers,
    }


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the least and the greatest of what it is the median of."""

    median: float
    least: float
    greatest: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        return cls(median(values), min(values), max(values), len(values)) if values else None


class Results:
    """All cells of a run."""

    def __init__(self, cells: Iterable[Cell] = ()) -> None:
        self.cells = list(cells)

    def cell(self, experiment: str, subject: str, case: Case) -> Cell | None:
        wanted = (experiment, subject, case)
        return next((each for each in self.cells if (each.experiment, each.subject, each.case) == wanted), None)

    def ratio(self, measure: Measure, above: Cell | None, below: Cell | None) -> Spread | None:
        """Of each round the ratio of the two, which ran one after the other, so that what slowed one down most likely
        slowed down the other; of those the median. None if no round is valid for both.

        A round in which either was disturbed counts only where there are no others.
        """
        if above is None or below is None:
            return None
        pairs = [
            (one, other)
            for one in above.valid
            for other in below.valid
            if one.number == other.number and measure(other)
        ]
        calm = [pair for pair in pairs if not any(each.is_disturbed for each in pair)]
        return Spread.of([measure(one) / measure(other) for one, other in calm or pairs])
