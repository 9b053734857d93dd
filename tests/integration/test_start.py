"""What a replica does with a repository in which something is wrong: it says so, and serves the rest."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from api.app import load_programs
from api.lifespan import Programs
from api.models.repository import Repository
from api.settings import Settings
from tests.integration.conftest import served

ROW = [39.1, 18.7, 181.0]


class Logits(torch.nn.Module):
    """A classification that forgot its softmax: right in every shape, and no probabilities."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows * 100


@pytest.fixture
def repository(tmp_path: Path, settings: Settings) -> Path:
    root = tmp_path / "models"
    shutil.copytree(settings.model_repository, root)
    return root


def add_version(root: Path, version: str, module: torch.nn.Module) -> None:
    folder = root / "penguins" / version
    shutil.copytree(root / "penguins" / "1", folder)
    dynamic = ({0: torch.export.Dim("rows", min=1)},)
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3),), dynamic_shapes=dynamic), folder / "model.pt2")
    manifest = yaml.safe_load((folder / "version.yaml").read_text())
    manifest["sha256"] = hashlib.sha256((folder / "model.pt2").read_bytes()).hexdigest()
    (folder / "version.yaml").write_text(yaml.safe_dump(manifest))


async def test_what_is_wrong_with_some_models_keeps_no_other_from_serving(
    settings: Settings, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_version(repository, "3", Logits())  # loads, and cannot answer
    (repository / "digits" / "1" / "model.pt2").write_bytes(b"not what was digested")
    (repository / "penguin-mass" / "model.yaml").write_text("name: [")
    shutil.copytree(repository / "penguins" / "1", repository / "penguins" / "4")
    impossible = repository / "penguins" / "4" / "version.yaml"
    impossible.write_text(re.sub("created: .*", "created: 2024-02-30", impossible.read_text()))

    opened = Repository.open(repository)
    programs = load_programs(opened, "cpu")
    async with served(settings, opened, programs) as client:
        models = (await client.get("/models")).json()
        answer = await client.post("/predict", json={"features": ROW})
        unknown = await client.post("/models/penguin-mass/predict", json={"features": ROW})
        health = (await client.get("/health")).json()

    assert {refused["path"] for refused in models["refused"]} == {
        "penguins/3",
        "penguins/4",
        "digits/1",
        "penguin-mass",
    }
    for refused in models["refused"]:
        assert refused["reason"]
        assert "\n" not in refused["reason"]
        assert sum(refused["path"] in record.getMessage() for record in caplog.records) == 1
    assert answer.status_code == 200
    assert answer.json()["version"] == "2"
    assert unknown.status_code == 404
    assert health["components"]["models"] == {"status": "up", "served": 3, "refused": 4}


async def test_a_replica_without_its_default_model_serves_the_others_and_is_not_ready(
    settings: Settings, shipped_models: tuple[Repository, Programs]
) -> None:
    mistyped = settings.model_copy(update={"default_model": "pinguins"})
    async with served(mistyped, *shipped_models) as client:
        named = await client.post("/models/penguins/predict", json={"features": ROW})
        ready = await client.get("/health/ready")

    assert named.status_code == 200
    assert ready.status_code == 503
    assert ready.json()["components"]["models"]["status"] == "down"


async def test_a_replica_without_any_model_lives_and_is_not_ready(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    async with served(settings, Repository.open(tmp_path / "empty"), {}) as client:
        assert (await client.get("/health/live")).status_code == 200
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["status"] == "unavailable"
        assert (await client.post("/predict", json={"features": ROW})).status_code == 404
