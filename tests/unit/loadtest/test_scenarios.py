from __future__ import annotations

from random import Random

import pytest

from loadtest.payloads import DIGITS, PENGUINS
from loadtest.scenarios import SCENARIOS, Traffic, other


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_sends_what_it_says(name: str) -> None:
    scenario = SCENARIOS[name]
    traffic = Traffic(scenario, DIGITS, process=0, seed=1)
    numbers = Random(1)
    drawn = [traffic.rows["penguins"].draw(numbers) for _ in range(3000)]
    kinds = {traffic.kind(numbers) for _ in range(3000)}

    distinct = len({row for _, row in drawn})
    assert {"hot": distinct == 8, "zipf": 500 < distinct < 1500, "unique": distinct == 3000}[scenario.bodies]
    assert kinds == set(scenario.mix)
    if scenario.bodies != "unique":
        # The number is the row's: that is how an answer is known to be the same as before.
        assert len({*drawn}) == distinct == len({number for number, _ in drawn})
    assert other(DIGITS) is PENGUINS
    assert other(PENGUINS) is DIGITS


def test_two_runs_with_one_seed_send_the_same() -> None:
    one, two = (
        [Traffic(SCENARIOS["mixed"], PENGUINS, process=0, seed=4).rows["digits"].draw(numbers) for _ in range(50)]
        for numbers in (Random(9), Random(9))
    )

    assert one == two
