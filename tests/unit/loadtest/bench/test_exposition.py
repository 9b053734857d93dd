from __future__ import annotations

import pytest

from loadtest.bench.exposition import grown, stages_and_tiers

BEFORE = """# TYPE shoal_stage_seconds histogram
shoal_stage_seconds_bucket{stage="log",le="+Inf"} 10.0
shoal_stage_seconds_sum{stage="log"} 1.5
shoal_stage_seconds_count{stage="log"} 10.0
"""
AFTER = """# TYPE shoal_stage_seconds histogram
shoal_stage_seconds_bucket{stage="log",le="+Inf"} 30.0
shoal_stage_seconds_sum{stage="log"} 2.0
shoal_stage_seconds_count{stage="log"} 30.0
# TYPE shoal_request_seconds histogram
shoal_request_seconds_sum{route="/predict"} 0.75
shoal_request_seconds_sum{route="/metrics"} 0.25
# TYPE shoal_predictions_total counter
shoal_predictions_total{cache="local",model="penguins",version="2"} 20.0
shoal_predictions_total{cache="miss",model="penguins",version="2"} 0.0
"""


def test_counts_only_what_came_between_two_looks() -> None:
    stages, tiers = stages_and_tiers(grown(BEFORE, AFTER))

    assert stages == {"log": pytest.approx(0.5), "request": 0.75}
    assert tiers == {"local": 20}


def test_a_subject_without_metrics_has_counted_nothing() -> None:
    assert stages_and_tiers(grown("", "")) == ({}, {})
