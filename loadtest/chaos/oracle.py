"""What the models say, asked past all of Shoal but the module that runs them: no cache, no batcher, no log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from api.models import runtime
from api.models.manifest import TOLERANCES
from api.models.repository import Repository
from api.models.runtime import Program
from loadtest.chaos.reconcile import Question

_TOLERANCE = TOLERANCES["float32"]  # of a probability; a confidence has six digits
_ROWS = 64


class Oracle:
    """Checks answers of classifications by running their rows again."""

    def __init__(self, root: Path) -> None:
        """root: the model repository that was served."""
        runtime.use_threads(1, 1)
        self._versions = Repository.open(root).versions
        self._programs: dict[tuple[str, str], Program] = {}

    def check(self, questions: Sequence[Question]) -> list[str]:
        """Says which answers are wrong."""
        wrong = []
        for key in {(each.answer.model, each.answer.version) for each in questions}:
            mine = [each for each in questions if (each.answer.model, each.answer.version) == key]
            for begin in range(0, len(mine), _ROWS):
                wrong += self._wrong(key, mine[begin : begin + _ROWS])
        return wrong

    def _wrong(self, key: tuple[str, str], questions: Sequence[Question]) -> list[str]:
        outputs = self._program(key).run(np.array([each.row for each in questions], dtype=np.float32))
        return [
            f"{question.row}: {question.answer} but the model says {output.tolist()}"
            for question, output in zip(questions, outputs, strict=True)
            if not _is_right(question, output)
        ]

    def _program(self, key: tuple[str, str]) -> Program:
        if key not in self._programs:
            self._programs[key] = Program.load(self._versions[key], "cpu")
            self._programs[key].warm_up(_ROWS)
        return self._programs[key]


def _is_right(question: Question, output: np.ndarray[tuple[int], np.dtype[np.float32]]) -> bool:
    prediction, confidence = question.answer.prediction, question.answer.confidence
    if not isinstance(prediction, int) or confidence is None:
        return False
    return bool(abs(output[prediction] - confidence) < _TOLERANCE and output[prediction] > output.max() - _TOLERANCE)
