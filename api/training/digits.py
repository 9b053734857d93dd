"""`digits`: a handwritten digit from an image of 8 x 8, in two versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor, nn

from api.models.manifest import DataSource, InputSpec, Manifest
from api.training.fitting import Trained, classification_metrics, fit, seeded, split

_IMAGES = load_digits()

MANIFEST = Manifest(
    name="digits",
    description="Which digit is written in an image of 8 x 8 grey values.",
    task="classification",
    input=InputSpec(name="image", shape=(8, 8)),
    classes=[str(digit) for digit in range(10)],
    preprocessing="Divided by 16 and limited to 0..1 inside the program: send 8 rows of 8 grey values, 0 (paper) to 16"
    " (ink).",
    default_version="2",
    data=DataSource(
        name="Optical Recognition of Handwritten Digits: Alpaydin and Kaynak (1998), UCI, as in scikit-learn 1.9.1",
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        licence="CC-BY-4.0",
    ),
    example=[[int(grey) for grey in line] for line in _IMAGES.images[0]],
)


class GreyValues(nn.Module):
    """Images of 0..16 as one channel of 0..1."""

    def forward(self, images: Tensor) -> Tensor:
        return (images / 16).clamp(0, 1).unsqueeze(1)


class RecurrentBlock(nn.Module):
    """A residual block that is run on its own output: as deep as many blocks, with the weights of one.

    Liao and Poggio, "Bridging the Gaps Between Residual Learning, Recurrent Neural Networks and Visual Cortex" (2016).
    """

    def __init__(self, channels: int, runs: int) -> None:
        super().__init__()
        self.runs = runs
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        # It begins as the identity, which so deep a network learns from at once.
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(self.runs):
            images = torch.relu(images + self.second(torch.relu(self.first(images))))
        return images


def convolutional() -> list[nn.Module]:
    return [
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(512, 10),
    ]


def recurrent() -> list[nn.Module]:
    return [
        nn.Conv2d(1, 128, kernel_size=3, padding=1),
        nn.ReLU(),
        RecurrentBlock(128, runs=6),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(2048, 10),
    ]


def written_differently(images: Tensor) -> Tensor:
    """Each image (images, 8, 8) turned, slanted, zoomed and moved by chance: up to 14 degrees and one pixel."""
    count = len(images)
    most = torch.tensor([[0.25], [0.15], [0.15], [0.25], [0.25]])  # radians, and parts of half the image
    turn, slant, zoom, right, down = (2 * torch.rand(5, count) - 1) * most
    cosine, sine = torch.cos(turn) * (1 + zoom), torch.sin(turn) * (1 + zoom)
    moves = torch.stack([cosine, slant - sine, right, sine, cosine, down], dim=1).view(count, 2, 3)
    grid = nn.functional.affine_grid(moves, [count, 1, 8, 8], align_corners=False)
    return nn.functional.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


def shifted(images: Tensor) -> list[Tensor]:
    """The images one pixel further in each of the eight directions."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    return [padded[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3) if (y, x) != (1, 1)]


@dataclass(frozen=True)
class Recipe:
    """How a version is made."""

    description: str
    layers: Callable[[], list[nn.Module]]
    epochs: int
    batch_rows: int
    learning_rate: float
    warm_up_epochs: int = 0
    augment: Callable[[Tensor], Tensor] | None = None


RECIPES = {
    "1": Recipe(
        "Two convolutions of 16 and 32 channels, and one linear layer: cheap, but lost where a digit is out of place.",
        convolutional,
        epochs=25,
        batch_rows=64,
        learning_rate=0.004,
    ),
    "2": Recipe(
        "A residual block of two convolutions of 128 channels, run six times on its own output, and trained on images"
        " that are turned, slanted, zoomed and moved.",
        recurrent,
        epochs=8,
        batch_rows=32,
        learning_rate=0.002,
        warm_up_epochs=3,
        augment=written_differently,
    ),
}


def train() -> list[Trained]:
    images = torch.from_numpy(_IMAGES.images).float()
    digits = torch.from_numpy(_IMAGES.target).long()
    train_on, held_out = split(_IMAGES.target, held_out=0.25)
    how = (
        f"python -m api.training.digits: {len(train_on)} images to train on, {len(held_out)} held out, stratified by"
        " digit, seeded. The same writers are in both, so strangers' digits will be read less well."
    )
    trained = []
    for version, recipe in RECIPES.items():
        seeded()
        logits = nn.Sequential(GreyValues(), *recipe.layers())
        fit(
            logits,
            nn.CrossEntropyLoss(label_smoothing=0.02),
            images[train_on],
            digits[train_on],
            epochs=recipe.epochs,
            batch_rows=recipe.batch_rows,
            learning_rate=recipe.learning_rate,
            weight_decay=0.01,
            warm_up_epochs=recipe.warm_up_epochs,
            augment=recipe.augment,
        )
        module = nn.Sequential(logits, nn.Softmax(dim=1)).eval()
        metrics = classification_metrics(module, images[held_out], digits[held_out])
        moved = shifted(images[held_out])
        seen = classification_metrics(module, torch.cat(moved), digits[held_out].repeat(len(moved)))
        metrics["holdout_accuracy_shifted_by_one_pixel"] = seen["holdout_accuracy"]
        trained.append(Trained(version, module, metrics, recipe.description, how))
    return trained


if __name__ == "__main__":
    from api.training.__main__ import publish

    publish(MANIFEST, train())
