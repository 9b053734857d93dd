"""Requests are told apart by their ids and by their rows."""

from __future__ import annotations

import json

import numpy as np

from loadtest.chaos.questions import Questions


def test_no_two_requests_ask_about_the_same_row() -> None:
    numbers = [*range(25_000), *range(4_990_000, 5_010_000)]
    rows = {
        np.array(Questions("run", seed).row(number), dtype=np.float32).tobytes()
        for seed in (0, 1, 4242)
        for number in numbers
    }
    assert len(rows) == 3 * len(numbers)


def test_repeated_rows_are_few_and_nobody_elses() -> None:
    questions = Questions("run", 1, repeat_every=4, repeated=3)
    repeated = {tuple(questions.row(number)) for number in range(0, 400, 4)}
    others = {tuple(questions.row(number)) for number in range(400) if number % 4}
    assert len(repeated) == 3
    assert len(others) == 300
    assert not repeated & others


def test_a_message_is_the_request_with_its_row_and_its_id() -> None:
    questions = Questions("run", 7, path="/models/dear/predict")
    head, _, body = questions.message(42).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /models/dear/predict HTTP/1.1\r\n")
    assert b"\r\nX-Request-Id: run.42\r\n" in head
    assert head.endswith(b"Content-Length: %d" % len(body))
    assert json.loads(body) == {"features": questions.row(42)}


def test_an_id_is_read_back_and_others_are_nobodys() -> None:
    questions = Questions("run", 0)
    assert questions.number(questions.request_id(42)) == 42
    assert [questions.number(id) for id in ("run", "run.", "run.x", "other.42", "42")] == [None] * 5
