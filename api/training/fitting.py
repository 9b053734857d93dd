"""What the trainings share: a seeded split, a loop, and putting the result into the repository."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from api.models.export import export, publish
from api.models.manifest import Manifest
from api.models.repository import ModelVersion

SEED = 2026


@dataclass(frozen=True)
class Trained:
    """A version that was trained, on its way to the repository."""

    version: str
    module: nn.Module
    metrics: dict[str, float]
    description: str
    training: str

    def publish(self, manifest: Manifest, root: Path) -> ModelVersion:
        """Replaces the version in the repository."""
        archive = export(self.module, np.array(manifest.example, dtype=np.float32))
        fields: dict[str, Any] = {
            "description": self.description,
            "created": datetime.datetime.now(datetime.UTC).date(),
            "seed": SEED,
            "metrics": {name: round(value, 4) for name, value in self.metrics.items()},
            "training": self.training,
        }
        published, _ = publish(root, manifest, self.version, archive, fields, original=self.module, replace=True)
        return published


class Standardised(nn.Module):
    """Puts each number on the scale of the training rows: mean 0, standard deviation 1, at most 10 of them away.

    The limit keeps every finite row's answer finite. Beyond it the model knows nothing anyway.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", rows.mean(dim=0))
        self.register_buffer("deviation", rows.std(dim=0))

    def forward(self, rows: Tensor) -> Tensor:
        return ((rows - self.mean) / self.deviation).clamp(-10, 10)


def seeded() -> None:
    """The same weights every time: on the same machine to the bit, on another within rounding."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def split(groups: np.ndarray[Any, Any], held_out: float) -> tuple[Tensor, Tensor]:
    """Indices of the rows to train on, and of those held out: the same share of every group."""
    random = np.random.default_rng(SEED)
    train, test = [], []
    for group in np.unique(groups):
        members = random.permutation(np.flatnonzero(groups == group))
        cut = round(len(members) * held_out)
        test.append(members[:cut])
        train.append(members[cut:])
    return torch.from_numpy(np.concatenate(train)), torch.from_numpy(np.concatenate(test))


def fit(
    module: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    rows: Tensor,
    targets: Tensor,
    *,
    epochs: int,
    batch_rows: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    warm_up_epochs: int = 0,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """AdamW with a cosine schedule. The module is left in eval mode.

    warm_up_epochs: of the epochs, those in which the learning rate rises before it falls.
    augment: changes rows by chance each time they are seen, in what their targets do not depend on.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=warm_up_epochs),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs - warm_up_epochs),
        ],
        milestones=[warm_up_epochs],
    )
    module.train()
    for _ in range(epochs):
        shuffled = torch.randperm(len(rows))
        for start in range(0, len(rows), batch_rows):
            batch = shuffled[start : start + batch_rows]
            given = augment(rows[batch]) if augment else rows[batch]
            optimizer.zero_grad()
            loss(module(given), targets[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    module.eval()


@torch.inference_mode()
def classification_metrics(module: nn.Module, rows: Tensor, classes: Tensor) -> dict[str, float]:
    """module: gives probabilities."""
    probabilities = module(rows)
    right = probabilities.argmax(dim=1) == classes
    return {
        "holdout_accuracy": right.float().mean().item(),
        "holdout_log_loss": nn.functional.nll_loss(probabilities.log(), classes).item(),
    }
