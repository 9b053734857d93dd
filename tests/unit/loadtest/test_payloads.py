from __future__ import annotations

import json
from collections import Counter
from functools import partial
from itertools import islice
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.payloads import (
    DIGITS,
    MODELS,
    PENGUINS,
    ZIPF_ROWS,
    ZIPF_S,
    Model,
    Zipf,
    batch,
    pool,
    single,
    unique_keys,
    zipf,
)

each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
keys = st.integers(min_value=0, max_value=2**66 - 1)


def as_the_server_reads_it(row: bytes) -> bytes:
    """The float32 bytes that the cache key is made of."""
    return np.array(json.loads(row), dtype=np.float32).tobytes()


@each_model
@given(numbers=st.integers().map(Random))
def test_rows_have_the_shape_and_the_range_of_the_model(model: Model, numbers: Random) -> None:
    row = np.array(json.loads(model.realistic(numbers)))

    if model is DIGITS:
        assert row.shape == (8, 8)
        assert set(row.flat) <= set(range(17))
    else:
        assert row.shape == (3,)
        assert np.all(row > [20, 10, 140])
        assert np.all(row < [70, 28, 260])


@given(key=keys)
def test_unique_rows_are_realistic_too(key: int) -> None:
    penguin, digit = (np.array(json.loads(model.distinct(key))) for model in (PENGUINS, DIGITS))

    assert np.all(penguin >= [34, 13.5, 172])
    assert np.all(penguin <= [50, 21.5, 236])
    assert digit.shape == (8, 8)
    assert set(digit.flat) <= set(range(17))


@each_model
@given(key=keys, bit=st.integers(0, 65))
def test_numbers_that_differ_in_one_bit_are_different_rows_even_in_float32(model: Model, key: int, bit: int) -> None:
    one, two = (as_the_server_reads_it(model.distinct(number)) for number in (key, key ^ 1 << bit))

    assert one != two


@each_model
@given(key=st.integers(0, 2**66 - 2))
def test_neighbouring_numbers_are_different_rows_even_in_float32(model: Model, key: int) -> None:
    assert as_the_server_reads_it(model.distinct(key)) != as_the_server_reads_it(model.distinct(key + 1))


@each_model
def test_a_unique_row_never_comes_twice_in_any_process_or_run(model: Model) -> None:
    begun_ms = [1_800_000_000_000, 1_800_000_000_001, 1_800_000_060_000]
    runs = [unique_keys(process, partial(int, begun)) for process in (0, 1, 255) for begun in begun_ms]

    rows = [as_the_server_reads_it(model.distinct(key)) for run in runs for key in islice(run, 2000)]

    assert len(set(rows)) == len(rows)


def test_a_process_does_not_repeat_a_number_when_its_block_ends_or_its_clock_is_set_back() -> None:
    clock = iter([1_800_000_000_000, 1_800_000_000_000, 1_799_999_000_000])

    numbers = list(islice(unique_keys(0, lambda: next(clock)), 3 * 2**18))

    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < 2**66


def test_more_processes_than_there_are_numbers_for_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 256"):
        next(unique_keys(256))


@each_model
def test_a_pool_is_the_same_for_the_same_seed_and_has_no_row_twice(model: Model) -> None:
    rows = pool.__wrapped__(model, 2000, 7)

    assert rows == pool.__wrapped__(model, 2000, 7)
    assert rows != pool.__wrapped__(model, 2000, 8)
    assert len({as_the_server_reads_it(row) for row in rows}) == 2000


def test_zipf_draws_each_rank_as_often_as_zipfs_law_says() -> None:
    numbers, draws = Random(1), 200_000
    drawn = Counter(zipf().draw(numbers) for _ in range(draws))

    harmonic = sum(rank**-1.1 for rank in range(1, 10_001))
    for rank in (1, 2, 3, 10, 100, 1000):
        expected = draws * rank**-1.1 / harmonic
        assert drawn[rank - 1] == pytest.approx(expected, abs=5 * expected**0.5)  # five standard deviations
    assert max(drawn) < ZIPF_ROWS
    assert ZIPF_S == 1.1


def test_zipf_has_the_slope_of_its_exponent() -> None:
    shares = zipf().shares

    slope = np.polyfit(np.log(np.arange(1, len(shares) + 1)), np.log(shares), 1)[0]

    assert slope == pytest.approx(-1.1)
    assert sum(shares) == pytest.approx(1)


def test_the_last_rank_is_drawn_where_rounding_would_go_past_it() -> None:
    class AlmostOne(Random):
        def random(self) -> float:
            return 1 - 2**-53

    assert Zipf(3, 1.1).draw(AlmostOne()) == 2


@pytest.mark.parametrize("draws", [1, 50, 3000])
def test_the_ideal_hit_rate_is_what_one_unbounded_cache_reaches(draws: int) -> None:
    law, numbers = Zipf(200, 1.1), Random(3)
    runs = [1 - len({law.draw(numbers) for _ in range(draws)}) / draws for _ in range(300)]

    assert law.ideal_hit_rate(draws) == pytest.approx(np.mean(runs), abs=0.01)


def test_the_ideal_of_nothing_is_nothing() -> None:
    assert zipf().ideal_hit_rate(0) == 0


def test_bodies_are_what_the_routes_take() -> None:
    assert json.loads(single(b"[1.0,2.0,3.0]")) == {"features": [1, 2, 3]}
    assert json.loads(batch([b"[1.0]", b"[2.0]"])) == {"instances": [[1], [2]]}
