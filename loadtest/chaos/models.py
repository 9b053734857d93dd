"""Models of three features that behave as no shipped one does, for a repository that is made for the occasion."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

import numpy as np
import torch

from api.models.export import export, publish
from api.models.manifest import Manifest
from api.settings import Settings

_EXAMPLE = [39.1, 18.7, 181.0]


class Dear(torch.nn.Module):
    """Some milliseconds a row, and no less in a batch: what limits a replica is the model and its queue."""

    def __init__(self, layers: int = 40, channels: int = 64, size: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shape = (channels, size, size)
        self.widen = torch.nn.Linear(3, channels * size * size)
        self.layers = torch.nn.Sequential(
            *(
                torch.nn.Sequential(torch.nn.Conv2d(channels, channels, 3, padding=1), torch.nn.Tanh())
                for _ in range(layers)
            )
        )
        self.narrow = torch.nn.Linear(channels, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        images = self.widen(rows / 100).reshape(rows.shape[0], *self.shape)
        return torch.softmax(self.narrow(self.layers(images).mean(dim=(2, 3))), dim=1)


def add(root: Path, name: str, module: torch.nn.Module) -> None:
    """Adds a classifier of three classes to a repository."""
    manifest = Manifest.model_validate(
        {
            "name": name,
            "description": f"{type(module).__name__}, for a bad day.",
            "task": "classification",
            "input": {"name": "rows", "shape": [3]},
            "classes": ["one", "two", "three"],
            "preprocessing": "None.",
            "default_version": "1",
            "data": {"name": "none", "licence": "none"},
            "example": _EXAMPLE,
        }
    )
    fields = {
        "description": f"Made by {__name__}.",
        "created": datetime.date(2026, 1, 1),
        "training": "None: random weights, seeded.",
    }
    archive = export(module, np.array(_EXAMPLE, dtype=np.float32))
    publish(root, manifest, "1", archive, fields, original=module)


def repository(folder: Path, **modules: torch.nn.Module) -> Path:
    """A copy of the shipped models, and these by their names."""
    root = folder / "models"
    shutil.copytree(Settings().model_repository, root)
    for name, module in modules.items():
        add(root, name, module)
    return root


# --- those that fail on rows whose first feature is negative, and on no others ----------------------------------------
class _Fails(torch.nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        harm = (rows[:, 0].min() < 0).to(torch.int64)  # 1 if one of them is there
        even = torch.full_like(rows, 1 / 3)
        return even + self.harm(rows, harm).to(torch.float32) * 0

    def harm(self, rows: torch.Tensor, harm: torch.Tensor) -> torch.Tensor:
        """Does no harm where `harm` is 0."""
        raise NotImplementedError


class Raises(_Fails):
    def harm(self, rows: torch.Tensor, harm: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1)[harm]  # an index that is out of range


class GivesNaN(_Fails):
    def harm(self, rows: torch.Tensor, harm: torch.Tensor) -> torch.Tensor:
        return torch.log(0.5 - harm.to(torch.float32))


class Grows(torch.nn.Module):
    """Gives a row more than it was given. A model that may give any shape is refused as it is loaded; this one promised
    the right one."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        more: int = (rows[:, 0].min() < 0).to(torch.int64).item()  # type: ignore[assignment]  # traced: not known yet
        torch._check(more >= 0)  # type: ignore[no-untyped-call]
        torch._check(more == 0)  # type: ignore[no-untyped-call]
        return torch.cat([torch.full_like(rows, 1 / 3), rows.new_zeros((more, 3))])


class Allocates(_Fails):
    """Some 10 GB, or as much as there is."""

    def harm(self, rows: torch.Tensor, harm: torch.Tensor) -> torch.Tensor:
        return torch.ones(1).repeat_interleave(1 + harm * 2_500_000_000).sum()


class Hangs(_Fails):
    """For hours."""

    def harm(self, rows: torch.Tensor, harm: torch.Tensor) -> torch.Tensor:
        count: int = (harm * 2_000_000 + 1).item()  # type: ignore[assignment]  # traced: a number that is not known yet
        torch._check(count > 0)  # type: ignore[no-untyped-call]
        return torch.ones(1, 1).expand(count, count).sum()


class HangsDearly(Hangs):
    """So dear that it runs in the thread, and not on the event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.dear = Dear(layers=16)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        even: torch.Tensor = super().forward(rows)
        dear: torch.Tensor = self.dear(rows)
        return even + dear * 0


class Crashes(_Fails):
    """Reads far beyond the end of its memory."""

    def harm(self, rows: torch.Tensor, harm: torch.Tensor) -> torch.Tensor:
        lengths = 1 + harm * 2**40
        return torch.segment_reduce(torch.ones(1), "sum", lengths=lengths.reshape(1), unsafe=True)
