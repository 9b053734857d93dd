"""The models in api/model_repository, as a caller meets them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from api.models.manifest import TOLERANCES
from api.models.repository import Repository
from api.models.runtime import Program
from api.models.staging import Outputs
from api.settings import HERE, Settings

VERSIONS = ["digits/1", "digits/2", "penguin-mass/1", "penguins/1", "penguins/2"]
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)

Programs = dict[str, Program]


@pytest.fixture(scope="module")
def repository() -> Repository:
    return Repository.open(HERE / "model_repository")


@pytest.fixture(scope="module")
def programs(repository: Repository) -> Programs:
    return {f"{version.name}/{version.version}": Program.load(version) for version in repository.versions.values()}


def test_all_of_them_are_served(repository: Repository, programs: Programs) -> None:
    assert repository.refusals == []
    assert sorted(programs) == VERSIONS


def test_the_default_model_takes_three_features(repository: Repository, programs: Programs) -> None:
    version = repository.resolve(Settings().default_model)

    assert (version.version, version.input_shape) == ("2", (3,))
    assert programs["penguins/2"].run(np.array([[1, 2, 3]], dtype=np.float32)).shape == (1, 3)


def test_their_examples_are_answered_rightly(repository: Repository, programs: Programs) -> None:
    def answer(name: str) -> Outputs:
        example = repository.resolve(*name.split("/")).manifest.example
        outputs: Outputs = programs[name].run(np.array([example], dtype=np.float32))[0]
        return outputs

    assert answer("penguins/2").argmax() == 0  # the first bird in the data, an Adelie
    for name in ("digits/1", "digits/2"):
        assert answer(name).argmax() == 0  # the first image, a zero
    assert answer("penguin-mass/1") == pytest.approx(3750, abs=600)  # it weighed 3750 g


@pytest.mark.parametrize("name", VERSIONS)
@given(data=st.data())
def test_every_finite_row_has_an_answer(programs: Programs, name: str, data: st.DataObject) -> None:
    shape = (8, 8) if name.startswith("digits") else (3,)
    rows = data.draw(arrays.arrays(np.float32, (2, *shape), elements=FINITE))

    programs[name].run(rows.copy())  # raises where the answer is none


@pytest.mark.parametrize("name", VERSIONS)
def test_a_batch_gives_what_its_rows_give(programs: Programs, name: str) -> None:
    shape = (8, 8) if name.startswith("digits") else (3,)
    rows = np.random.default_rng(0).uniform(0, 200 / math.prod(shape), (64, *shape)).astype(np.float32)

    together = programs[name].run(rows.copy())

    alone = np.concatenate([programs[name].run(row[np.newaxis].copy()) for row in rows])
    # Output by output, which is stricter than what is promised of the greatest one.
    assert together == pytest.approx(alone, rel=TOLERANCES["float32"], abs=TOLERANCES["float32"] / 10)
