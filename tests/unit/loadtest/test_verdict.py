from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from loadtest.scenarios import SCENARIOS
from loadtest.shapes import Step
from loadtest.tally import Latencies, Tier
from loadtest.verdict import (
    KEPT,
    MISSED,
    NOTHING_MEASURED,
    OBJECTIVES,
    Judgement,
    Measured,
    Objectives,
    exit_code,
    judge,
    read_objectives,
)


def run(
    *, requests: int = 1000, failures: int = 0, milliseconds: dict[int, int] | None = None, **tiers: int
) -> Measured:
    return Measured(
        requests=requests,
        failures=failures,
        requests_per_second=requests / 10,
        latencies=Latencies(milliseconds if milliseconds is not None else {10: requests}),
        tiers=[Tier(name, answers, Latencies(), Counter()) for name, answers in tiers.items()],
    )


def code(objectives: Objectives, measured: Measured) -> int:
    return exit_code(judge(objectives, measured), measured)


@pytest.mark.parametrize(
    ("objectives", "kept", "missed"),
    [
        (Objectives(max_failure_ratio=0), run(failures=0), run(failures=1)),
        (Objectives(max_failure_ratio=0.01), run(failures=10), run(failures=11)),
        (Objectives(p95_seconds=0.1), run(milliseconds={10: 950, 200: 50}), run(milliseconds={10: 949, 200: 51})),
        (Objectives(p99_seconds=0.1), run(milliseconds={10: 990, 200: 10}), run(milliseconds={10: 989, 200: 11})),
        (Objectives(min_hit_rate=0.9), run(local=80, redis=9, coalesced=1, miss=10), run(local=89, miss=11)),
        (Objectives(max_hit_rate=0), run(miss=1000), run(miss=999, redis=1)),
        (Objectives(min_requests_per_second=100), run(requests=1000), run(requests=999)),
    ],
    ids=lambda value: "" if isinstance(value, Measured) else str(value),
)
def test_an_objective_is_kept_up_to_its_bound_and_missed_beyond(
    objectives: Objectives, kept: Measured, missed: Measured
) -> None:
    assert code(objectives, kept) == KEPT == 0
    assert code(objectives, missed) == MISSED == 1


def test_one_missed_objective_is_enough() -> None:
    objectives = Objectives(max_failure_ratio=0, p95_seconds=0.1, min_hit_rate=0.5)

    judgements = judge(objectives, run(failures=0, local=1, miss=99))

    assert [each.kept for each in judgements] == [True, True, False]
    assert code(objectives, run(local=1, miss=99)) == MISSED


def test_what_is_not_stated_is_not_judged() -> None:
    assert judge(Objectives(), run()) == []
    assert code(Objectives(), run()) == KEPT


def test_a_run_without_requests_is_neither_kept_nor_missed() -> None:
    nothing = run(requests=0, milliseconds={})

    assert code(Objectives(max_failure_ratio=0), nothing) == NOTHING_MEASURED == 2
    assert code(Objectives(), nothing) == NOTHING_MEASURED
    assert judge(Objectives(max_failure_ratio=0), nothing) == [Judgement("failures <= 0.000%", "not measured", False)]


def test_a_run_that_only_failed_has_missed() -> None:
    """A server that refuses every connection: there are latencies, but no tier answered."""
    refused = run(failures=1000)

    assert code(Objectives(max_failure_ratio=0, max_hit_rate=0), refused) == MISSED


def test_an_objective_on_what_was_not_measured_is_missed() -> None:
    assert code(Objectives(min_hit_rate=0.5), run()) == MISSED
    assert code(Objectives(min_share_of_ideal=0.5), run(local=1)) == MISSED


def test_the_hit_rate_is_compared_with_that_of_an_ideal_cache() -> None:
    measured = Measured(1000, 0, 100, Latencies({10: 1000}), [Tier("local", 760), Tier("miss", 240)], 0.8)

    [judgement] = judge(Objectives(min_share_of_ideal=0.95), measured)

    assert judgement == Judgement("hit rate of an ideal cold cache's >= 95.0%", "95.0%", True)


def test_a_ramp_is_judged_at_its_knee_but_for_its_failures() -> None:
    knee = Step(8, 400, Latencies({20: 1}))
    measured = Measured(1000, 1, 100, Latencies({900: 1000}), knee=knee)

    judgements = judge(Objectives(max_failure_ratio=0, p95_seconds=0.1, min_requests_per_second=300), measured)

    assert [(each.objective, each.measured, each.kept) for each in judgements] == [
        ("failures <= 0.000%", "0.100%", False),
        ("p95 at the knee <= 0.100 s", "0.020 s", True),
        ("requests/s at the knee >= 300", "400", True),
    ]


def test_every_scenario_has_objectives_and_none_allows_a_failure() -> None:
    for scenario in SCENARIOS:
        assert read_objectives(OBJECTIVES, scenario).max_failure_ratio == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("zipf: {p95_second: 1}", "p95_second"),
        ("zipf: {p95_seconds: soon}", "Expected `float"),
        ("hot: {}", "expected objectives of 'zipf', got those of hot"),
        ("][", "while parsing"),
    ],
)
def test_a_file_that_states_no_objectives_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "objectives.yaml"
    file.write_text(text)

    with pytest.raises(ValueError, match=complaint):
        read_objectives(file, "zipf")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_objectives(tmp_path / "nowhere.yaml", "zipf")
