"""Objectives against what was measured. The exit code of a load test: 0 kept, 1 missed, 2 nothing was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from loadtest.shapes import Step
from loadtest.tally import Latencies, Tier, hit_rate

KEPT, MISSED, NOTHING_MEASURED = 0, 1, 2
OBJECTIVES = Path(__file__).with_name("objectives.yaml")


class Objectives(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is not stated is not judged. The words are explained in objectives.yaml."""

    max_failure_ratio: float | None = None
    p95_seconds: float | None = None
    p99_seconds: float | None = None
    min_hit_rate: float | None = None
    max_hit_rate: float | None = None
    min_share_of_ideal: float | None = None
    min_requests_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One run."""

    requests: int
    failures: int
    requests_per_second: float
    latencies: Latencies
    tiers: list[Tier] = field(default_factory=list)
    ideal_hit_rate: float | None = None
    """Of as many draws as there were answers; None where the scenario has no such thing."""
    knee: Step | None = None
    """Of a ramp: where latency and throughput are judged."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of the verdict."""

    objective: str
    measured: str
    kept: bool


def read_objectives(path: Path, scenario: str) -> Objectives:
    """Raises:
    ValueError: the file is not what it should be, or says nothing of the scenario; in one line.
    """
    try:
        stated = msgspec.yaml.decode(path.read_bytes(), type=dict[str, Objectives])
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if scenario not in stated:
        raise ValueError(f"{path}: expected objectives of {scenario!r}, got those of {', '.join(stated)}")
    return stated[scenario]


def judge(objectives: Objectives, measured: Measured) -> list[Judgement]:
    """One judgement for each objective that is stated, in a fixed order. What was not measured was not kept."""
    where = " at the knee" if measured.knee else ""
    latencies = measured.knee.latencies if measured.knee else measured.latencies
    throughput = measured.knee.requests_per_second if measured.knee else measured.requests_per_second
    failures = measured.failures / measured.requests if measured.requests else None
    hits = hit_rate(measured.tiers)
    ideal = hits / measured.ideal_hit_rate if hits is not None and measured.ideal_hit_rate else None
    p95 = latencies.percentile(0.95) if latencies else None
    p99 = latencies.percentile(0.99) if latencies else None
    return [
        *_at_most("failures", objectives.max_failure_ratio, failures, "{:.3%}"),
        *_at_most(f"p95{where}", objectives.p95_seconds, p95, "{:.3f} s"),
        *_at_most(f"p99{where}", objectives.p99_seconds, p99, "{:.3f} s"),
        *_at_least("hit rate", objectives.min_hit_rate, hits, "{:.2%}"),
        *_at_most("hit rate", objectives.max_hit_rate, hits, "{:.2%}"),
        *_at_least("hit rate of an ideal cold cache's", objectives.min_share_of_ideal, ideal, "{:.1%}"),
        *_at_least(f"requests/s{where}", objectives.min_requests_per_second, throughput, "{:.0f}"),
    ]


def exit_code(judgements: Sequence[Judgement], measured: Measured) -> int:
    if not measured.requests:
        return NOTHING_MEASURED
    return KEPT if all(each.kept for each in judgements) else MISSED


def _at_most(name: str, bound: float | None, value: float | None, unit: str) -> Iterable[Judgement]:
    if bound is not None:
        yield Judgement(f"{name} <= {unit.format(bound)}", _shown(value, unit), value is not None and value <= bound)


def _at_least(name: str, bound: float | None, value: float | None, unit: str) -> Iterable[Judgement]:
    if bound is not None:
        yield Judgement(f"{name} >= {unit.format(bound)}", _shown(value, unit), value is not None and value >= bound)


def _shown(value: float | None, unit: str) -> str:
    return "not measured" if value is None else unit.format(value)
