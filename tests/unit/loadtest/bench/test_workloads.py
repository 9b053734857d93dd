from __future__ import annotations

import pytest

from loadtest.bench.workloads import Case
from loadtest.payloads import DIGITS, PENGUINS, Model


@pytest.mark.parametrize(
    ("model", "rows", "path", "kind"),
    [
        ("penguins", 0, "/predict", PENGUINS),
        ("digits", 64, "/models/digits/predict/batch", DIGITS),
        ("digits/1", 0, "/models/digits/versions/1/predict", DIGITS),
        ("digits/1", 64, "/models/digits/versions/1/predict/batch", DIGITS),
        ("digits-100us", 0, "/models/digits-100us/predict", DIGITS),
        ("penguins-2", 0, "/models/penguins-2/predict", PENGUINS),
    ],
)
def test_a_case_asks_its_model_with_rows_that_it_takes(model: str, rows: int, path: str, kind: Model) -> None:
    case = Case(model, "miss", 8, rows)

    assert case.paths() == [path]
    assert case.kind is kind
