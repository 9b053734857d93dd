from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.shapes import Mark, Plan, Step, knee, measure
from loadtest.tally import Latencies


@pytest.mark.parametrize(
    ("users", "seconds", "levels"),
    [
        (50, 30, [2, 4, 7, 13, 25, 50]),
        (64, 600, [2, 4, 8, 16, 32, 64]),
        (50, 12, [13, 25, 50]),  # steps of less than 4 s would measure nothing
        (50, 1, [50]),
        (4, 60, [1, 2, 4]),
        (1, 60, [1]),
    ],
)
def test_users_double_up_to_those_asked_for(users: int, seconds: float, levels: list[int]) -> None:
    plan = Plan.doubling(users, seconds)

    assert plan.levels == levels
    assert plan.step_seconds * len(levels) == pytest.approx(seconds)


@given(users=st.integers(1, 10_000), seconds=st.floats(4, 3600), elapsed=st.floats(0, 4000))
def test_there_is_a_step_until_the_time_is_over(users: int, seconds: float, elapsed: float) -> None:
    plan = Plan.doubling(users, seconds)
    over = plan.step_seconds * len(plan.levels)

    step = plan.step_at(elapsed)

    assert (step is None) == (elapsed // plan.step_seconds >= len(plan.levels))
    assert plan.step_at(over * 1.001) is None
    assert plan.step_at(0) == 0


def test_the_steps_come_in_order() -> None:
    plan = Plan([2, 4, 8], 5)

    assert [plan.step_at(second) for second in (0, 4.9, 5, 9.9, 10, 14.9, 15)] == [0, 0, 1, 1, 2, 2, None]


def test_a_step_is_measured_by_its_own_requests_and_whole_seconds() -> None:
    marks = [Mark(2, 100.5, Latencies()), Mark(4, 105.5, Latencies({10: 500}))]
    end = Mark(0, 110.5, Latencies({10: 600, 20: 700}))
    # Of each step the seconds in which users start or stop do not count: 102 to 104, 107 to 109.
    per_second = dict.fromkeys(range(102, 105), 100) | dict.fromkeys(range(107, 110), 160) | {101: 9, 105: 9, 106: 9}

    assert measure(marks, per_second, end) == [
        Step(2, 100, Latencies({10: 500})),
        Step(4, 160, Latencies({10: 100, 20: 700})),
    ]


def test_a_step_that_was_cut_short_is_left_out() -> None:
    marks = [Mark(2, 100.5, Latencies()), Mark(4, 105.5, Latencies())]

    assert [step.users for step in measure(marks, {103: 5}, Mark(0, 106, Latencies()))] == [2]
    assert measure([], {}, Mark(0, 106, Latencies())) == []


def test_the_knee_is_where_more_users_only_wait_for_each_other() -> None:
    # A server that does 1000 a second and takes 8 ms for each: 8 users keep it busy.
    steps = [Step(users, min(users / 0.008, 1000), Latencies()) for users in (1, 2, 4, 8, 16, 32)]

    found = knee(steps)

    assert found is not None
    assert found.users == 8


def test_there_is_no_knee_where_nothing_was_answered() -> None:
    assert knee([]) is None
    assert knee([Step(2, 0, Latencies())]) is None
