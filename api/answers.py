"""From a model's outputs to answers: what is said, in the forms it leaves in, made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from api.prediction_log.record import pack_answer

_encode = msgspec.json.Encoder().encode


class Answer(NamedTuple):
    """What a model version says of one row. Equal rows share one."""

    members: bytes
    """Prediction, label and confidence as members of a JSON object, without its braces: for the reply."""

    packed: bytes
    """The same for the log; see record.pack_answer."""


class Classification:
    """Reads outputs as the probabilities of classes."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._members = [
            b'"prediction":%d,"label":%b,"confidence":' % (index, _encode(label)) for index, label in enumerate(classes)
        ]

    def answers(self, outputs: npt.NDArray[np.float32]) -> list[Answer]:
        """outputs: float32, shape (rows, classes)."""
        # As lists: for the few rows of most batches numpy's reductions cost more than these.
        return [self._answer(probabilities) for probabilities in outputs.tolist()]

    def _answer(self, probabilities: list[float]) -> Answer:
        highest = max(probabilities)
        index = probabilities.index(highest)
        # Six digits are what a float32 is sure of; 0.9876543 reads better than 0.9876543283462524.
        confidence = round(highest, 6)
        return Answer(
            self._members[index] + _encode(confidence), pack_answer(b"%d" % index, self._classes[index], confidence)
        )


class Regression:
    """Reads outputs as values: a number where the model has one output, a list where it has several."""

    def answers(self, outputs: npt.NDArray[np.float32]) -> list[Answer]:
        """outputs: float32, shape (rows, outputs)."""
        return [self._answer(output) for output in outputs]

    def _answer(self, output: npt.NDArray[np.float32]) -> Answer:
        # The shortest decimal that gives the same float32 back: 4207.3 and not 4207.2998046875.
        values = [float(str(value)) for value in output]
        prediction = _encode(values[0] if len(values) == 1 else values)
        return Answer(b'"prediction":%b,"confidence":null' % prediction, pack_answer(prediction, None, None))
