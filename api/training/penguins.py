"""`penguins`: the species of a penguin from three measurements, in two versions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from api.models.manifest import InputSpec, Manifest
from api.training import palmer
from api.training.fitting import Standardised, Trained, classification_metrics, fit, seeded, split

MANIFEST = Manifest(
    name="penguins",
    description="Species of a penguin of the Palmer Archipelago from the size of its bill and flipper.",
    task="classification",
    input=InputSpec(name="rows", shape=(3,), features=palmer.FEATURES),
    classes=palmer.SPECIES,
    preprocessing="Standardised by the training rows' mean and deviation, and limited to 10 deviations, inside the"
    " program: send millimetres.",
    default_version="2",
    data=palmer.SOURCE,
    example=[39.1, 18.7, 181.0],
)


class WithoutBillLength(nn.Module):
    """Leaves out the first measurement."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows[:, 1:]


def baseline() -> list[nn.Module]:
    return [WithoutBillLength(), nn.Linear(2, 3)]


def perceptron() -> list[nn.Module]:
    return [nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)]


VERSIONS: dict[str, tuple[str, Callable[[], list[nn.Module]]]] = {
    "1": (
        "Baseline: softmax regression on bill depth and flipper length; bill length is taken, but not looked at.",
        baseline,
    ),
    "2": ("Two hidden layers of 32 on all three measurements.", perceptron),
}


def train() -> list[Trained]:
    rows, species = (torch.from_numpy(array) for array in palmer.measurements()[:2])
    train_on, held_out = split(species.numpy(), held_out=0.3)
    trained = []
    for version, (description, layers) in VERSIONS.items():
        seeded()
        logits = nn.Sequential(Standardised(rows[train_on]), *layers())
        fit(
            logits,
            nn.CrossEntropyLoss(label_smoothing=0.02),
            rows[train_on],
            species[train_on],
            epochs=60,
            batch_rows=32,
            learning_rate=0.01,
            weight_decay=0.05,
        )
        module = nn.Sequential(logits, nn.Softmax(dim=1))
        metrics = classification_metrics(module, rows[held_out], species[held_out])
        trained.append(Trained(version, module, metrics, description, palmer.how("penguins", train_on, held_out)))
    return trained


if __name__ == "__main__":
    from api.training.__main__ import publish

    publish(MANIFEST, train())
