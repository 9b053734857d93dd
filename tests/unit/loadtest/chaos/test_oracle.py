"""The shipped model, asked past the server."""

from __future__ import annotations

from uuid import UUID

from api.settings import Settings
from loadtest.chaos.oracle import Oracle
from loadtest.chaos.reconcile import Answer, Question


def test_a_right_answer_passes_and_wrong_ones_do_not() -> None:
    def question(prediction: int, confidence: float) -> Question:
        return Question([39.1, 18.7, 181.0], Answer(UUID(int=0), prediction, confidence, "penguins", "2", False))

    oracle = Oracle(Settings().model_repository)
    assert oracle.check([question(0, 0.988862)]) == []
    for wrong in (question(1, 0.988862), question(0, 0.97), question(2, 0.001)):
        assert len(oracle.check([question(0, 0.988862), wrong])) == 1
