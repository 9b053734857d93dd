"""The Palmer penguins: 342 birds with all three measurements."""

from __future__ import annotations

import csv
from collections.abc import Sized
from importlib import resources

import numpy as np
import numpy.typing as npt

from api.models.manifest import DataSource, Feature

FEATURES = [
    Feature(name="bill_length_mm", unit="mm", description="Length of the bill's upper ridge."),
    Feature(name="bill_depth_mm", unit="mm", description="Depth of the bill."),
    Feature(name="flipper_length_mm", unit="mm", description="Length of the flipper."),
]
SPECIES = ["Adelie", "Chinstrap", "Gentoo"]
SOURCE = DataSource(
    name="Palmer penguins: Gorman, Williams and Fraser (2014), as in palmerpenguins 0.1.6",
    url="https://allisonhorst.github.io/palmerpenguins/",
    licence="CC0-1.0",
)


def measurements() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Rows of FEATURES (birds, 3), the index in SPECIES of each bird, and its body mass in grams."""
    # Read as it is: the package's own loader brings pandas along.
    with (resources.files("palmerpenguins") / "data" / "penguins.csv").open(encoding="utf-8") as file:
        birds = [bird for bird in csv.DictReader(file) if bird["bill_length_mm"] not in ("", "NA")]
    return (
        np.array([[float(bird[feature.name]) for feature in FEATURES] for bird in birds], dtype=np.float32),
        np.array([SPECIES.index(bird["species"]) for bird in birds], dtype=np.int64),
        np.array([float(bird["body_mass_g"]) for bird in birds], dtype=np.float32),
    )


def how(module: str, train_on: Sized, held_out: Sized) -> str:
    """For `training` of version.yaml."""
    return (
        f"python -m api.training.{module}: {len(train_on)} birds to train on, {len(held_out)} held out, stratified by"
        " species, seeded."
    )
