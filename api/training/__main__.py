"""Trains every shipped model again: `python -m api.training`, and one of them: `python -m api.training.penguins`."""

from __future__ import annotations

from api.models.manifest import Manifest
from api.settings import HERE
from api.training.fitting import Trained


def publish(manifest: Manifest, versions: list[Trained]) -> None:
    """Replaces the model in the repository that is shipped, and says what was measured."""
    for trained in versions:
        published = trained.publish(manifest, HERE / "model_repository")
        measured = ", ".join(f"{name} {value:.4g}" for name, value in published.version_manifest.metrics.items())
        print(f"{published.name}/{published.version}  {measured}  sha256 {published.version_manifest.sha256[:12]}…")


if __name__ == "__main__":
    from api.training import digits, penguin_mass, penguins

    for model in (penguins, penguin_mass, digits):
        publish(model.MANIFEST, model.train())
