"""A repository to break: two models of two versions, small enough to make in a moment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from api.models.export import export
from api.models.repository import ModelVersion, Repository


class Double(torch.nn.Module):
    """Two features in, twice as much out."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows * 2


@pytest.fixture(scope="session")
def double() -> bytes:
    """An artefact."""
    return export(Double(), np.zeros(2, dtype=np.float32))


@pytest.fixture
def fields() -> dict[str, Any]:
    """A manifest that fits `double`."""
    return {
        "name": "double",
        "description": "Twice as much.",
        "task": "regression",
        "input": {"name": "rows", "shape": [2]},
        "outputs": [{"name": "a"}, {"name": "b", "unit": "g"}],
        "preprocessing": "None.",
        "default_version": "1",
        "data": {"name": "none", "licence": "none"},
        "example": [1, 2],
    }


Add = Callable[..., ModelVersion]


@pytest.fixture
def add(tmp_path: Path, fields: dict[str, Any]) -> Add:
    """Adds a version to the repository in tmp_path, and reads it back."""

    def add(
        artefact: bytes, *, version: str = "1", version_fields: dict[str, Any] | None = None, **changes: Any
    ) -> Any:
        manifest = {key: value for key, value in (fields | changes).items() if value is not None}
        directory = tmp_path / manifest["name"] / version
        directory.mkdir(parents=True)
        (directory.parent / "model.yaml").write_text(yaml.safe_dump(manifest))
        (directory / "model.pt2").write_bytes(artefact)
        described = {
            "sha256": hashlib.sha256(artefact).hexdigest(),
            "description": "For a test.",
            "created": "2026-01-01",
            "training": "None.",
        }
        (directory / "version.yaml").write_text(yaml.safe_dump(described | (version_fields or {})))
        return Repository.open(tmp_path).versions.get((manifest["name"], version))

    return add
