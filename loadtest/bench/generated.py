"""Models that are only measured: made when they are needed, shipped nowhere.

`digits-<n>us` is a convolutional network on the images of the shipped `digits`, untrained, with seeded weights, that
takes about n microseconds a row at its best batch size on one core. `penguins-<n>` is a copy of the shipped `penguins`.

Run as `python -m loadtest.bench.generated FOLDER NAME…`, as torch is to be in no process that forks.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from api.models.repository import MODEL_FILE, Repository
from api.settings import HERE
from loadtest.bench.wrk import CannotMeasure

SHIPPED = HERE / "model_repository"
_SEED = 2026

CONVNETS = {100: (96, 3), 1_000: (192, 7), 10_000: (512, 10)}
"""Channels and layers of 3 by 3 by microseconds a row, as measured on one core of an AMD EPYC; what they cost where the
benchmark runs is in its report."""


def repository(folder: Path, names: Sequence[str]) -> Path:
    """A repository of these models below the folder; the same one for the same names.

    Raises:
        CannotMeasure: they cannot be made.
    """
    place = folder / "models" / hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]
    if not place.exists():
        command = [sys.executable, "-m", "loadtest.bench.generated", str(place), *names]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own command
        if ended.returncode:
            raise CannotMeasure(f"models cannot be made: {ended.stderr.strip().splitlines()[-1:]}")
    return place


def _make(place: Path, name: str) -> None:
    if name.startswith("digits-"):
        _export(place, name, int(name.removeprefix("digits-").removesuffix("us")))
    else:
        _copy(place, name)


def _copy(place: Path, name: str) -> None:
    original = SHIPPED / name.partition("-")[0]
    shutil.copytree(original, place / name)
    manifest = yaml.safe_load((original / MODEL_FILE).read_text())
    for version in (place / name).iterdir():
        if version.is_dir() and version.name != manifest["default_version"]:
            shutil.rmtree(version)
    (place / name / MODEL_FILE).write_text(yaml.safe_dump({**manifest, "name": name}))


def _export(place: Path, name: str, row_microseconds: int) -> None:
    import numpy as np
    import torch

    from api.models.export import export, publish

    channels, layers = CONVNETS[row_microseconds]
    shipped = Repository.open(SHIPPED).resolve("digits").manifest
    torch.manual_seed(_SEED)
    sizes = [1, *[channels] * layers]
    convolutions = [
        layer
        for before, after in pairwise(sizes)
        for layer in (torch.nn.Conv2d(before, after, kernel_size=3, padding=1), torch.nn.ReLU())
    ]
    module = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 8)),
        *convolutions,
        torch.nn.AvgPool2d(8),
        torch.nn.Flatten(),
        torch.nn.Linear(channels, shipped.output_width),
        torch.nn.Softmax(dim=1),
    ).eval()
    about = f"{layers} convolutions of {channels} channels on an image of 8 x 8, to be measured."
    publish(
        place,
        shipped.model_copy(update={"name": name, "description": about, "default_version": "1"}),
        "1",
        export(module, np.array(shipped.example, dtype=np.float32)),
        {"description": about, "created": datetime.date.today(), "seed": _SEED, "training": "None: seeded weights."},
        original=module,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.generated", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    for name in options.names:
        _make(options.folder, name)


if __name__ == "__main__":
    main()
