"""`digits`: a handwritten digit from an image of 8 x 8."""

from __future__ import annotations

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
    default_version="1",
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


def train() -> list[Trained]:
    images = torch.from_numpy(_IMAGES.images).float()
    digits = torch.from_numpy(_IMAGES.target).long()
    train_on, held_out = split(_IMAGES.target, held_out=0.25)
    seeded()
    logits = nn.Sequential(
        GreyValues(),
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(512, 10),
    )
    fit(
        logits,
        nn.CrossEntropyLoss(label_smoothing=0.02),
        images[train_on],
        digits[train_on],
        epochs=25,
        batch_rows=64,
        learning_rate=0.004,
        weight_decay=0.01,
    )
    module = nn.Sequential(logits, nn.Softmax(dim=1)).eval()
    metrics = classification_metrics(module, images[held_out], digits[held_out])
    how = (
        f"python -m api.training.digits: {len(train_on)} images to train on, {len(held_out)} held out, stratified by"
        " digit, seeded. The same writers are in both, so strangers' digits will be read less well."
    )
    return [Trained("1", module, metrics, "Two convolutions of 16 and 32 channels, and one linear layer.", how)]


if __name__ == "__main__":
    from api.training.__main__ import publish

    publish(MANIFEST, train())
