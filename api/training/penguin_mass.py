"""`penguin-mass`: the body mass of a penguin from three measurements."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from api.models.manifest import InputSpec, Manifest, Output
from api.training import palmer
from api.training.fitting import Standardised, Trained, fit, seeded, split

MANIFEST = Manifest(
    name="penguin-mass",
    description="Body mass of a penguin of the Palmer Archipelago from the size of its bill and flipper.",
    task="regression",
    input=InputSpec(name="rows", shape=(3,), features=palmer.FEATURES),
    outputs=[Output(name="body_mass", unit="g")],
    preprocessing="Standardised by the training rows' mean and deviation, and limited to 10 deviations, inside the"
    " program: send millimetres, get grams.",
    default_version="1",
    data=palmer.SOURCE,
    example=[39.1, 18.7, 181.0],
)


class InGrams(nn.Module):
    """From the scale that the network was trained on back to grams."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, masses: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", masses.mean())
        self.register_buffer("deviation", masses.std())

    def forward(self, scaled: Tensor) -> Tensor:
        return scaled * self.deviation + self.mean


def train() -> list[Trained]:
    rows, species, masses = (torch.from_numpy(array) for array in palmer.measurements())
    train_on, held_out = split(species.numpy(), held_out=0.3)
    seeded()
    grams = InGrams(masses[train_on])
    module = nn.Sequential(Standardised(rows[train_on]), nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 1), grams)

    def loss(given: Tensor, expected: Tensor) -> Tensor:
        return nn.functional.mse_loss(given.squeeze(1) / grams.deviation, expected / grams.deviation)

    fit(
        module,
        loss,
        rows[train_on],
        masses[train_on],
        epochs=60,
        batch_rows=32,
        learning_rate=0.01,
        weight_decay=0.05,
    )
    with torch.inference_mode():
        errors = module(rows[held_out]).squeeze(1) - masses[held_out]
    metrics = {
        "holdout_mean_absolute_error_g": errors.abs().mean().item(),
        "holdout_r2": 1 - (errors.square().mean() / masses[held_out].var(correction=0)).item(),
    }
    how = palmer.how("penguin_mass", train_on, held_out)
    return [Trained("1", module, metrics, "One hidden layer of 32.", how)]


if __name__ == "__main__":
    from api.training.__main__ import publish

    publish(MANIFEST, train())
