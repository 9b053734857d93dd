"""What is tallied reaches prometheus_client as if it had been counted there one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from api import tallies
from api.tallies import CounterTally, HistogramTally

BUCKETS = (0.125, 1, 8)
numbers = st.lists(st.sampled_from([0.0, 0.0625, 0.125, 0.5, 1, 8, 8.5, 1e9]))  # their sums are exact


@given(batches=st.lists(numbers))
def test_a_histogram_is_as_one_that_was_observed(batches: list[list[float]]) -> None:
    direct, tallied = CollectorRegistry(), CollectorRegistry()
    observed = Histogram("seconds", "", buckets=BUCKETS, registry=direct)
    tally = HistogramTally(Histogram("seconds", "", buckets=BUCKETS, registry=tallied))

    for batch in batches:
        for number in batch:
            observed.observe(number)
            tally.observe(number)
        tally.flush()

    # Without the moment at which each was made.
    lines = [
        [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
        for registry in (direct, tallied)
    ]
    assert lines[0] == lines[1]


def test_a_counter_is_brought_up_to_date_with_all_the_others() -> None:
    counter = Counter("rows", "", registry=CollectorRegistry())
    tally = CounterTally(counter)
    tally.inc()
    tally.inc(4)
    assert counter._value.get() == 0

    tallies.flush()
    tallies.flush()

    assert counter._value.get() == 5
