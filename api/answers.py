"""From a model's output to an answer: what is said, with the pieces of the reply and of the log row made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

_encode = msgspec.json.Encoder().encode


class Answer(NamedTuple):
    """What a model version says of one row. Equal rows share one, so it is kept in the form it leaves in."""

    prediction: bytes
    """JSON: the class index, the value, or a list of values."""

    label: str | None
    """Name of the class; None for a regression."""

    confidence: float | None
    """Probability of the class, 0 to 1; None for a regression."""

    fields: bytes
    """The three as members of a JSON object, without its braces."""


class Classification:
    """Reads an output as the probabilities of classes."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)

    def answer(self, output: npt.NDArray[np.float32]) -> Answer:
        """output: float32, shape (classes,)."""
        index = int(output.argmax())
        # Six digits are what a float32 is sure of; 0.9876543 reads better than 0.9876543283462524.
        confidence = round(float(output[index]), 6)
        label = self._classes[index]
        prediction = b"%d" % index
        fields = b'"prediction":%b,"label":%b,"confidence":%b' % (prediction, _encode(label), _encode(confidence))
        return Answer(prediction, label, confidence, fields)


class Regression:
    """Reads an output as values: a number where the model has one output, a list where it has several."""

    def answer(self, output: npt.NDArray[np.float32]) -> Answer:
        """output: float32, shape (outputs,)."""
        # The shortest decimal that gives the same float32 back: 4207.3 and not 4207.2998046875.
        values = [float(str(value)) for value in output]
        prediction = _encode(values[0] if len(values) == 1 else values)
        return Answer(prediction, None, None, b'"prediction":%b,"confidence":null' % prediction)
