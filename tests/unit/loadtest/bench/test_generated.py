from __future__ import annotations

from pathlib import Path

import pytest

from api.models.repository import Repository
from loadtest.bench import generated
from loadtest.bench.wrk import CannotMeasure


def test_models_to_be_measured_are_made_once_and_can_be_served(tmp_path: Path) -> None:
    names = ("digits-100us", "penguins-1", "penguins-2")

    place = generated.repository(tmp_path, names)

    found = Repository.open(place)
    assert found.refusals == []
    assert found.names() == sorted(names)
    assert found.resolve("digits-100us").input_shape == (8, 8)
    shipped = Repository.open(generated.SHIPPED).resolve("penguins")
    assert {found.resolve(f"penguins-{number}").version_manifest.sha256 for number in (1, 2)} == {
        shipped.version_manifest.sha256
    }
    made = {file: file.stat().st_mtime_ns for file in place.rglob("*")}
    assert generated.repository(tmp_path, names) == place
    assert {file: file.stat().st_mtime_ns for file in place.rglob("*")} == made


def test_a_model_of_unknown_cost_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(CannotMeasure, match=r"models cannot be made: .*KeyError: 7"):
        generated.repository(tmp_path, ("digits-7us",))
