"""Outputs to answers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from api.answers import Answer, Classification, Regression
from api.prediction_log import pack_answer


def test_a_classification_names_the_likeliest_class() -> None:
    outputs = np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]], np.float32)

    first, second = Classification(["a", 'b"', "c"]).answers(outputs)

    assert said(first) == {"prediction": 1, "label": 'b"', "confidence": 0.7}
    assert said(second) == {"prediction": 0, "label": "a", "confidence": 0.4}  # the first of two that are equal
    assert first.packed == pack_answer(b"1", 'b"', 0.7)


def test_a_regression_gives_the_shortest_number_that_is_the_same_float32() -> None:
    outputs = np.array([[4207.3]], np.float32)

    [answer] = Regression().answers(outputs)

    assert answer.packed == pack_answer(b"4207.3", None, None)
    assert said(answer) == {"prediction": 4207.3, "confidence": None}
    assert np.float32(said(answer)["prediction"]) == outputs[0, 0]


def test_a_regression_with_several_outputs_gives_a_list() -> None:
    [answer] = Regression().answers(np.array([[1.5, -2]], np.float32))

    assert said(answer)["prediction"] == [1.5, -2.0]


def said(answer: Answer) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(b"{" + answer.members + b"}")
    return members
