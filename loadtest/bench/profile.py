"""Where the time and the CPU time of a request go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from loadtest.bench.figures import us
from loadtest.bench.results import Cell, Round
from loadtest.report import Table

STAGES = ("proxy", "receive", "decode", "cache", "queue", "run", "wake", "log", "reply")
"""In the order in which a request passes them; all but the first in the replica."""

_PARTS = ("nginx", "app", "postgres", "redis")


@dataclass(frozen=True, slots=True)
class Profile:
    """Seconds, means over the requests of a round.

    stages: as the replicas measured them. proxied: the whole request as nginx measured it, from its first byte to the
    last of its answer. client: as the load generator measured it; beyond nginx lie the kernel and the generator itself.
    """

    stages: dict[str, float]
    proxied: float
    client: float

    @classmethod
    def of(cls, each: Round) -> Profile | None:
        """None for a subject without stages."""
        requests = each.stages.get("requests")
        if not requests or not each.proxied_seconds:
            return None
        # By the replicas' own count, as the load generator leaves while some are on their way.
        stages = {name: each.stages.get(name, 0.0) / requests for name in STAGES}
        return cls(stages, each.proxied_seconds, each.load.mean_seconds)

    @property
    def rest(self) -> float:
        """What of a request at nginx is in no stage: its way back from the replica, and whatever nobody measured."""
        return self.proxied - sum(self.stages.values())

    @property
    def rest_percent(self) -> float:
        return 100 * abs(self.rest) / self.proxied


def stages(cells: Sequence[Cell]) -> Table:
    """Of each load of Shoal."""
    rows = []
    for cell in cells:
        profiles = [profile for each in cell.counted if (profile := Profile.of(each))]
        if profiles:
            parts = [median(each.stages[name] for each in profiles) for name in STAGES]
            whole = [median(values) for values in zip(*((each.rest, each.proxied) for each in profiles), strict=True)]
            beyond = median(each.client - each.proxied for each in profiles)
            share = median(each.rest_percent for each in profiles)
            rows.append((*_load(cell), *map(us, [*parts, *whole]), f"{share:.0f} %", us(beyond)))
    head = ("load", "subject", *STAGES, "rest", "at nginx", "rest of it", "beyond nginx")
    return Table("Where a request spends its time, mean", head, rows)


def cpu(cells: Sequence[Cell]) -> Table:
    """Of each load, CPU time by process, that of the load generator apart."""
    rows = []
    for cell in cells:
        if any(each.cpu_seconds for each in cell.counted):
            parts = [_median_by_request(cell, part) for part in _PARTS]
            generator = median(each.load.cpu_seconds / each.load.requests for each in cell.counted)
            rows.append((*_load(cell), *map(us, parts), us(sum(filter(None, parts))), us(generator)))
    head = ("load", "subject", *_PARTS, "together", "load generator")
    return Table("Where the CPU time of a request goes, median", head, rows)


def _median_by_request(cell: Cell, part: str) -> float | None:
    values = [each.cpu_seconds[part] / each.load.requests for each in cell.counted if part in each.cpu_seconds]
    return median(values) if values else None


def _load(cell: Cell) -> tuple[str, str]:
    return cell.case.name, cell.subject
