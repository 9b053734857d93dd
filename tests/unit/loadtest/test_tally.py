from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.tally import Latencies, hit_rate, label_shares, tiers


@dataclass
class Counted:
    """An entry of Locust's statistics."""

    name: str
    num_requests: int
    response_times: dict[int, int] = field(default_factory=dict)
    num_reqs_per_sec: dict[int, int] = field(default_factory=dict)


def entries(**counted: int) -> dict[tuple[str, str], Counted]:
    return {
        (name, "POST"): Counted(name, count, {5: count}, {100: count})
        for tier, count in counted.items()
        for name in [f"/predict [{tier}]"]
    }


@given(st.lists(st.integers(0, 20_000), min_size=1), st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_percentile_is_the_least_time_within_which_the_share_was_answered(times: list[int], share: float) -> None:
    expected = np.quantile(times, share, method="inverted_cdf")

    assert Latencies(times).percentile(share) == pytest.approx(expected / 1000)


def test_the_percentile_of_nothing_is_zero() -> None:
    assert Latencies().percentile(0.5) == 0


def test_tiers_are_added_up_over_paths_and_come_nearest_first() -> None:
    found = entries(miss=1, redis=2, local=3)
    found["/models/digits/predict [local]", "POST"] = Counted("…", 4, {9: 4}, {101: 4})
    found["/predictions", "GET"] = Counted("/predictions", 50)

    local, *others = tiers(found)

    assert (local.name, local.answers) == ("local", 7)
    assert local.latencies == Latencies({5: 3, 9: 4})
    assert local.per_second == Counter({100: 3, 101: 4})
    assert [(tier.name, tier.answers) for tier in others] == [("redis", 2), ("miss", 1)]


def test_an_answer_without_a_known_tier_is_in_none() -> None:
    assert tiers(entries(elsewhere=3)) == []


def test_the_hit_rate_counts_what_was_not_computed_again() -> None:
    assert hit_rate(tiers(entries(local=5, redis=2, coalesced=1, miss=2))) == pytest.approx(0.8)
    assert hit_rate(tiers(entries(local=1, miss=1, mixed=100))) == pytest.approx(0.5)
    assert hit_rate([]) is None
    assert hit_rate(tiers(entries(mixed=1))) is None


def test_the_names_that_are_shown_have_each_tiers_share_of_its_path() -> None:
    found = entries(local=3, miss=1)
    found["/predict/batch [mixed]", "POST"] = Counted("/predict/batch [mixed]", 9)
    found["/predictions", "GET"] = Counted("/predictions", 50)

    label_shares(found)
    label_shares(found)  # again and again while the test runs

    assert [entry.name for entry in found.values()] == [
        "/predict [local] 75.0%",
        "/predict [miss] 25.0%",
        "/predict/batch [mixed] 100.0%",
        "/predictions",
    ]
    assert [tier.answers for tier in tiers(found)] == [3, 1, 9]
