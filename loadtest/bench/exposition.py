"""What replicas counted during a round, from two looks at their /metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

Counted = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(texts: Iterable[str]) -> Counted:
    """Every sample by its name and labels, added up over the replicas."""
    counted: Counted = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                counted[key] = counted.get(key, 0.0) + sample.value
    return counted


def grown(before: Counted, after: Counted) -> Counted:
    """How much each sample grew between two looks."""
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


def stages_and_tiers(counted: Counted) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by stage, with the number of requests that were answered as `requests`; rows by tier."""
    stages: dict[str, float] = {}
    tiers: dict[str, float] = {}
    for (name, pairs), value in counted.items():
        labels = dict(pairs)
        if name == "shoal_stage_seconds_sum":
            stages[labels["stage"]] = value
        elif name == "shoal_requests_total" and labels["outcome"] == "ok" and "/predict" in labels["route"]:
            stages["requests"] = stages.get("requests", 0.0) + value
        elif name == "shoal_predictions_total" and value > 0:
            tiers[labels["cache"]] = tiers.get(labels["cache"], 0.0) + value
    return stages, tiers
