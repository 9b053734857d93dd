from __future__ import annotations

import pytest

from loadtest.bench.options import known, parse

BY_DEFAULT = ["penguins", "digits", "limit", "log", "redis", "memory", "rows"]


def chosen(*arguments: str) -> list[str]:
    return [each.name for each in parse(None, list(arguments)).experiments]


def test_an_empty_value_stands_for_the_default() -> None:
    options = parse(None, ["--rounds", "", "--seconds", "", "--connections", "", "--only", "", "--sizes", ""])

    assert (options.rounds, options.seconds, options.connections, options.chart) == (5, 3, 64, None)
    assert [each.name for each in options.experiments] == BY_DEFAULT


def test_all_are_those_too_that_take_long() -> None:
    assert chosen("--only", "all") == list(known(64))
    assert set(known(64)) - set(BY_DEFAULT) == {
        "balance", "claims", "connections", "cost", "growth-rows", "growth-keys", "growth-replicas", "growth-models",
    }  # fmt: skip


def test_what_is_named_runs_in_its_order() -> None:
    assert chosen("--only", "growth-rows,log") == ["log", "growth-rows"]


def test_sizes_are_those_of_the_experiment_that_varies_them() -> None:
    [rows] = parse(None, ["--only", "growth-rows", "--sizes", "1000,10,10"]).experiments

    assert [each.name for each in rows.subjects] == ["10-rows", "1k-rows", "1k-rows-today"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "walruses"], "--only: expected some of penguins"),
        (["--only", "log", "--sizes", "1"], "--sizes: expected one of cost, growth-rows"),
        (["--only", "growth-rows,growth-keys", "--sizes", "1"], "--sizes: expected one of"),
        (["--only", "cost", "--sizes", "100,7"], "--sizes: expected some of [100, 1000, 10000] us a row, got [7]"),
        (["--only", "growth-rows", "--sizes", "10,0"], "--sizes: expected whole numbers above 0, separated by commas"),
        (["--only", "log", "--chart", "x.svg"], "--chart: expected penguins in --only, got log"),
        (["--rounds", "some"], "--rounds: expected whole numbers above 0, separated by commas, got 'some'"),
        (["--rounds", "1,2"], "--rounds: expected one number, got '1,2'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(None, arguments)

    assert said in capsys.readouterr().err
