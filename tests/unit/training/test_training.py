"""The shipped models are the ones that the training scripts make."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from api.models.manifest import Manifest
from api.models.repository import Repository
from api.models.runtime import Program
from api.settings import HERE
from api.training import digits, penguin_mass, penguins
from api.training.fitting import Trained

MODELS: list[tuple[Manifest, Callable[[], list[Trained]]]] = [
    (penguins.MANIFEST, penguins.train),
    (penguin_mass.MANIFEST, penguin_mass.train),
    (digits.MANIFEST, digits.train),
]


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """Training makes torch deterministic, for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("manifest", "train"), MODELS, ids=[manifest.name for manifest, _ in MODELS])
def test_training_again_gives_the_shipped_model(manifest: Manifest, train: Callable[[], list[Trained]]) -> None:
    shipped = {
        version.version: version for version in Repository.open(HERE / "model_repository").versions_of(manifest.name)
    }
    rows = np.array([manifest.example] * 2, dtype=np.float32) * np.array([[1], [0.9]], dtype=np.float32).reshape(
        2, *[1] * len(manifest.input.shape)
    )

    trained = train()

    assert {one.version for one in trained} == set(shipped)
    for one in trained:
        version = shipped[one.version]
        assert version.manifest == manifest
        # On the same kind of processor they are equal to the bit; another adds up in another order.
        assert one.metrics == pytest.approx(version.version_manifest.metrics, rel=0.02, abs=0.01)
        with torch.inference_mode():
            again = one.module(torch.from_numpy(rows.copy())).numpy()
        assert Program.load(version).run(rows) == pytest.approx(again, rel=0.02, abs=0.02)


def test_what_is_shipped_is_as_good_as_the_readme_says() -> None:
    metrics = {
        f"{version.name}/{version.version}": version.version_manifest.metrics
        for version in Repository.open(HERE / "model_repository").versions.values()
    }

    assert metrics["penguins/1"]["holdout_accuracy"] < 0.85
    assert metrics["penguins/2"]["holdout_accuracy"] > 0.95
    assert metrics["digits/1"]["holdout_accuracy"] > 0.97
    assert metrics["digits/1"]["holdout_accuracy_shifted_by_one_pixel"] < 0.6
    assert metrics["digits/2"]["holdout_accuracy"] > 0.98
    assert metrics["digits/2"]["holdout_accuracy_shifted_by_one_pixel"] > 0.95
    assert metrics["penguin-mass/1"]["holdout_mean_absolute_error_g"] < 320
