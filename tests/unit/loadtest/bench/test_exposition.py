from __future__ import annotations

import pytest

from loadtest.bench.exposition import grown, read, stages_and_tiers

BEFORE = """# TYPE shoal_stage_seconds histogram
shoal_stage_seconds_bucket{stage="log",le="+Inf"} 10.0
shoal_stage_seconds_sum{stage="log"} 1.5
shoal_stage_seconds_count{stage="log"} 10.0
"""
AFTER = """# TYPE shoal_stage_seconds histogram
shoal_stage_seconds_bucket{stage="log",le="+Inf"} 30.0
shoal_stage_seconds_sum{stage="log"} 2.0
shoal_stage_seconds_count{stage="log"} 30.0
# TYPE shoal_requests counter
shoal_requests_total{route="/predict",status="200",outcome="ok"} 30.0
shoal_requests_total{route="/predict/batch",status="200",outcome="ok"} 10.0
shoal_requests_total{route="/predict",status="0",outcome="client-left"} 5.0
shoal_requests_total{route="/metrics",status="200",outcome="ok"} 2.0
# TYPE shoal_predictions_total counter
shoal_predictions_total{cache="local",model="penguins",version="2"} 20.0
shoal_predictions_total{cache="miss",model="penguins",version="2"} 0.0
"""


def test_counts_only_what_came_between_two_looks() -> None:
    stages, tiers = stages_and_tiers(grown(read([BEFORE]), read([AFTER])))

    assert stages == {"log": pytest.approx(0.5), "requests": 40}
    assert tiers == {"local": 20}


def test_what_several_replicas_counted_is_added_up() -> None:
    stages, tiers = stages_and_tiers(grown(read([BEFORE, BEFORE]), read([AFTER, AFTER])))

    assert stages == {"log": pytest.approx(1.0), "requests": 80}
    assert tiers == {"local": 40}


def test_a_subject_without_metrics_has_counted_nothing() -> None:
    assert stages_and_tiers(grown(read([]), read([]))) == ({}, {})
