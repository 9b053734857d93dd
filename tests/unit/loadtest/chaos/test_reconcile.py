"""What is lost, doubled, altered or made up is found, each by itself."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest

from loadtest.chaos.ledger import BROKEN, Ledger
from loadtest.chaos.questions import Questions
from loadtest.chaos.reconcile import Answer, Logged, Question, Reckoning, reconcile

QUESTIONS = Questions("run", 3)
ANSWERED = 4


def answer(number: int) -> Answer:
    return Answer(UUID(int=number), 1, 0.5, "penguins", "2", False, "Chinstrap")


def row(number: int) -> Logged:
    """What belongs into the log for a request that was answered."""
    return Logged(f"run.{number}", UUID(int=number), QUESTIONS.row(number), 1, "Chinstrap", 0.5, "penguins", "2")


@pytest.fixture
def ledger() -> Ledger:
    """Four that were answered, then one each that was refused, and that broke half way."""
    ledger = Ledger()
    for number in range(ANSWERED):
        ledger.begin(0, 0)
        ledger.end(number, 1, 200, msgspec.json.encode(answer(number)))
    for status in (503, BROKEN):
        ledger.end(ledger.begin(0, 0), 1, status)
    return ledger


def faults(reckoning: Reckoning) -> dict[str, int]:
    names = ("lost", "duplicated", "altered", "unasked", "wrong")
    return {name: count for name in names if (count := getattr(reckoning, name))}


def test_a_log_that_is_right_is_found_so(ledger: Ledger) -> None:
    reckoning = reconcile(ledger, QUESTIONS, map(row, range(ANSWERED)))
    assert faults(reckoning) == {}
    assert (reckoning.requests, reckoning.answered, reckoning.failed) == (6, 4, 2)


def test_a_row_that_is_missing_is_lost(ledger: Ledger) -> None:
    reckoning = reconcile(ledger, QUESTIONS, map(row, (0, 1, 3)))
    assert faults(reckoning) == {"lost": 1}
    assert "run.2" in reckoning.examples[0]


def test_a_row_that_waits_in_the_spool_is_not_lost(ledger: Ledger) -> None:
    reckoning = reconcile(ledger, QUESTIONS, map(row, (0, 1, 3)), spooled=[UUID(int=2)])
    assert faults(reckoning) == {}
    assert reckoning.still_spooled == 1


def test_a_row_that_is_there_twice_is_found(ledger: Ledger) -> None:
    again = row(2)._replace(id=UUID(int=2))
    assert faults(reconcile(ledger, QUESTIONS, [*map(row, range(ANSWERED)), again])) == {"duplicated": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"id": UUID(int=99)},
        {"input_data": [1.0, 2.0, 3.0]},
        {"prediction": 2},
        {"label": "Gentoo"},
        {"confidence": 0.51},
        {"model": "digits"},
        {"version": "1"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_row_that_says_something_else_is_found(ledger: Ledger, change: dict[str, Any]) -> None:
    rows = [*map(row, range(ANSWERED - 1)), row(ANSWERED - 1)._replace(**change)]
    assert faults(reconcile(ledger, QUESTIONS, rows)) == {"altered": 1}


@pytest.mark.parametrize("request_id", ["other.1", "run.6", "nonsense"])
def test_a_row_without_a_request_is_found(ledger: Ledger, request_id: str) -> None:
    rows = [*map(row, range(ANSWERED)), row(0)._replace(request_id=request_id)]
    assert faults(reconcile(ledger, QUESTIONS, rows)) == {"unasked": 1}


def test_a_request_that_was_refused_has_no_row_and_one_that_broke_may_have(ledger: Ledger) -> None:
    refused, broken = row(ANSWERED), row(ANSWERED + 1)
    assert faults(reconcile(ledger, QUESTIONS, [*map(row, range(ANSWERED)), broken])) == {}
    assert faults(reconcile(ledger, QUESTIONS, [*map(row, range(ANSWERED)), refused])) == {"unasked": 1}


def test_an_answer_that_the_model_does_not_give_is_wrong(ledger: Ledger) -> None:
    def check(questions: object) -> list[str]:
        assert questions == [Question(QUESTIONS.row(number), answer(number)) for number in range(ANSWERED)]
        return ["that one"]

    assert faults(reconcile(ledger, QUESTIONS, map(row, range(ANSWERED)), check=check)) == {"wrong": 1}
