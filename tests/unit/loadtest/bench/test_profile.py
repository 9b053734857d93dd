from __future__ import annotations

import pytest

from loadtest.bench import profile
from loadtest.bench.bars import BARS
from loadtest.bench.profile import Profile
from loadtest.bench.results import Cell, Results, Round
from loadtest.bench.verdict import judge
from loadtest.bench.workloads import Case
from loadtest.bench.wrk import Load

STAGES = {"proxy": 0.1, "receive": 0.1, "cache": 0.2, "log": 0.5, "requests": 100}  # 9 ms a request in all


def measured(number: int, proxied_seconds: float, stages: dict[str, float] = STAGES) -> Round:
    load = Load(100, 1.0, mean_seconds=0.012, cpu_seconds=0.1)
    used = {"nginx": 0.2, "app": 0.4, "postgres": 0.1, "redis": 0.0}
    return Round(number, load, used, stages=stages, proxied_seconds=proxied_seconds)


def cell(*rounds: Round) -> Cell:
    return Cell("penguins", "shoal", Case("penguins", "hit", 64), list(rounds))


def test_the_rest_is_what_nginx_saw_and_no_stage_has() -> None:
    found = Profile.of(measured(1, 0.010))

    assert found is not None
    assert found.rest == pytest.approx(0.001)
    assert found.rest_percent == pytest.approx(10)


def test_stages_that_add_up_to_more_than_the_whole_are_as_wrong() -> None:
    found = Profile.of(measured(1, 0.0075))

    assert found is not None
    assert found.rest_percent == pytest.approx(20)


def test_a_subject_that_counts_no_stages_has_no_profile() -> None:
    assert Profile.of(measured(1, 0.0, {})) is None
    assert not profile.stages([cell(measured(1, 0.0, {}))]).rows


@pytest.mark.parametrize(("proxied_seconds", "kept"), [(0.0099, True), (0.0110, False)])
def test_the_profile_is_held_against_a_bar(proxied_seconds: float, kept: bool) -> None:
    judged = {each.bar.what: each for each in judge(Results([cell(measured(1, proxied_seconds))]), BARS)}

    assert judged["hit, of a request's time in no stage"].is_kept is kept


def test_the_table_of_stages_adds_up_to_the_time_at_nginx_and_then_to_that_of_the_client() -> None:
    [row] = profile.stages([cell(measured(1, 0.010), measured(2, 0.010))]).rows

    assert row[:2] == ("penguins hit @64", "shoal")
    *parts, whole, share, beyond = row[2:]
    assert sum(int(part.removesuffix(" us")) for part in parts) == 10_000
    assert (whole, share, beyond) == ("10000 us", "10 %", "2000 us")


def test_the_load_generator_is_not_in_the_cpu_time_of_a_request() -> None:
    [row] = profile.cpu([cell(measured(1, 0.010))]).rows

    assert row[2:] == ("2000 us", "4000 us", "1000 us", "0 us", "7000 us", "1000 us")
