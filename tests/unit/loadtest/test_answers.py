from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from loadtest.answers import Checker, SingleAnswer, job_answers, logged, page
from loadtest.payloads import PENGUINS

ID = "019ac3a0-0000-7000-8000-000000000001"


def row(**changed: Any) -> dict[str, Any]:
    return {"id": ID, "prediction": 1, "label": "Chinstrap", "confidence": 0.9, "cached": False} | changed


def single(**changed: Any) -> bytes:
    return json.dumps({**row(), "model": "penguins", "version": "2"} | changed).encode()


def batch(*rows: dict[str, Any], model: str = "penguins") -> bytes:
    return json.dumps({"predictions": rows, "model": model, "version": "2"}).encode()


def wrong(body: bytes, *, number: int | None = None, tier: str | None = "miss", checker: Checker | None = None) -> str:
    return (checker or Checker()).single(body, PENGUINS, number, tier)[1]


def test_a_right_answer_has_nothing_wrong() -> None:
    assert wrong(single()) == ""
    assert wrong(single(cached=True), tier="redis") == ""
    assert wrong(single(cached=True), tier="local") == ""
    assert wrong(single(), tier="coalesced") == ""


@pytest.mark.parametrize(
    ("body", "tier", "complaint"),
    [
        (single(model="digits"), "miss", "another model"),
        (single(prediction=3), "miss", "the class"),
        (single(prediction=-1), "miss", "the class"),
        (single(cached=True), "miss", "disagree"),
        (single(), "redis", "disagree"),
        (single(), "mixed", "not one of the tiers"),
        (single(), "elsewhere", "not one of the tiers"),
        (single(), None, "not one of the tiers"),
    ],
)
def test_a_wrong_answer_is_told_in_words_without_values(body: bytes, tier: str | None, complaint: str) -> None:
    assert complaint in wrong(body, tier=tier)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        single(id="7"),
        single(confidence=1.1),
        single(confidence=None),
        single(prediction="1"),
        single(extra=1),
        batch(row()),
    ],
)
def test_what_is_no_answer_at_all_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        wrong(body)


@pytest.mark.parametrize("changed", [{"prediction": 0, "label": "Adelie"}, {"confidence": 0.8}])
def test_the_same_row_must_be_answered_the_same_again(changed: dict[str, Any]) -> None:
    checker = Checker()
    assert wrong(single(), number=5, checker=checker) == ""

    assert "differently before" in wrong(single(**changed), number=5, checker=checker)
    assert wrong(single(**changed), number=6, checker=checker) == ""
    assert wrong(single(**changed), number=None, checker=checker) == ""
    # A new version may know better.
    assert wrong(single(**changed, version="3"), number=5, checker=checker) == ""


def test_the_order_of_a_sum_in_a_batch_is_no_other_answer() -> None:
    checker = Checker()
    assert wrong(single(confidence=0.9), number=5, checker=checker) == ""

    assert wrong(single(confidence=0.90001), number=5, checker=checker) == ""


def test_a_class_has_one_label() -> None:
    checker = Checker()
    assert wrong(single(), checker=checker) == ""

    assert "two labels" in wrong(single(label="Gentoo"), checker=checker)


def test_a_batch_is_checked_row_by_row() -> None:
    checker = Checker()
    assert wrong(single(), number=5, checker=checker) == ""

    def of(*rows: dict[str, Any], tier: str = "mixed") -> str:
        return checker.batch(batch(*rows), PENGUINS, [5, 6], tier)

    assert of(row(cached=True), row()) == ""
    assert "number of answers" in of(row())
    assert "differently before" in of(row(confidence=0.5), row())
    assert "disagree" in of(row(cached=True), row(), tier="local")
    assert "another model" in checker.batch(batch(row(), model="digits"), PENGUINS, [None], "miss")


def in_the_log(**changed: Any) -> dict[str, Any]:
    answer = row()
    del answer["cached"]
    more = {"timestamp": "2026-01-01T00:00:00Z", "input_data": [1, 2, 3], "cache": "miss"}
    return answer | more | {"model": "penguins", "version": "2", "request_id": "load-1"} | changed


def test_the_log_has_what_the_caller_was_told() -> None:
    answer = msgspec.json.decode(single(), type=SingleAnswer)

    def check(**changed: Any) -> str:
        return logged(json.dumps(in_the_log(**changed)).encode(), answer, "load-1")

    assert check() == ""
    assert all(check(**{name: "other"}) for name in ("model", "version", "label", "request_id"))
    assert check(confidence=0.5)
    assert check(prediction=0)
    with pytest.raises(msgspec.DecodeError):
        logged(b'{"type":"urn:shoal:problem:unknown-prediction"}', answer, "load-1")


def test_a_page_holds_what_was_asked_for_newest_first() -> None:
    later = "019ac3a0-0001-7000-8000-000000000000"

    def check(*rows: dict[str, Any]) -> str:
        return page(json.dumps({"predictions": rows, "next_cursor": None}).encode(), PENGUINS, 2)

    assert check() == ""
    assert check(in_the_log(id=later), in_the_log()) == ""
    assert "not sorted" in check(in_the_log(), in_the_log(id=later))
    assert "not asked for" in check(in_the_log(model="digits"))
    assert "not asked for" in check(in_the_log(), in_the_log(), in_the_log())


def job_line(row: int) -> bytes:
    return b'{"row":%d,"id":"%b","prediction":0,"label":"Adelie","confidence":0.9}\n' % (row, ID.encode())


def test_every_row_of_a_job_has_its_answer_in_order() -> None:
    assert job_answers(job_line(0) + job_line(1), 2) == ""
    for wrong in (job_line(0), job_line(1) + job_line(0), job_line(0) + job_line(0)):
        assert job_answers(wrong, 2) != ""
    with pytest.raises(msgspec.DecodeError):
        job_answers(b'{"row":0,"error":"model-failed","detail":"x"}\n', 1)
