"""What a replica counted during a round, from two looks at its /metrics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Counted = dict[tuple[str, tuple[tuple[str, str], ...]], float]

_WHOLE = {"shoal_request_seconds_sum": "request", "shoal_request_seconds_count": "requests"}


def read(text: str) -> Counted:
    """Every sample by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def grown(before: str, after: str) -> Counted:
    """How much each sample grew between two expositions."""
    then = read(before)
    return {key: value - then.get(key, 0.0) for key, value in read(after).items()}


def stages_and_tiers(counted: Counted) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by stage, with the whole of the requests as `request` and their number as `requests`; rows by tier."""
    stages: dict[str, float] = {}
    tiers: dict[str, float] = {}
    for (name, pairs), value in counted.items():
        labels = dict(pairs)
        if name == "shoal_stage_seconds_sum":
            stages[labels["stage"]] = value
        elif name in _WHOLE and value > 0 and "predict" in labels["route"]:
            stages[_WHOLE[name]] = stages.get(_WHOLE[name], 0.0) + value
        elif name == "shoal_predictions_total" and value > 0:
            tiers[labels["cache"]] = tiers.get(labels["cache"], 0.0) + value
    return stages, tiers
