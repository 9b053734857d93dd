"""Outputs to answers."""

from __future__ import annotations

import json

import numpy as np

from api.answers import Classification, Regression


def test_a_classification_names_the_likeliest_class() -> None:
    answer = Classification(["a", 'b"', "c"]).answer(np.array([0.1, 0.7, 0.2], np.float32))

    assert (answer.prediction, answer.label, answer.confidence) == (b"1", 'b"', 0.7)
    assert json.loads(b"{" + answer.fields + b"}") == {"prediction": 1, "label": 'b"', "confidence": 0.7}


def test_a_regression_gives_the_shortest_number_that_is_the_same_float32() -> None:
    output = np.array([4207.3], np.float32)

    answer = Regression().answer(output)

    assert answer.prediction == b"4207.3"
    assert np.float32(json.loads(answer.prediction)) == output[0]
    assert json.loads(b"{" + answer.fields + b"}") == {"prediction": 4207.3, "confidence": None}


def test_a_regression_with_several_outputs_gives_a_list() -> None:
    assert Regression().answer(np.array([1.5, -2], np.float32)).prediction == b"[1.5,-2.0]"
