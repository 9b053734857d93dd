"""`python -m api`: what its user types, sees and finds in the repository afterwards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from api.__main__ import main
from api.models.repository import Repository, sha256_of
from api.models.runtime import Program
from api.settings import HERE

MODULES = """
import torch
from torch import nn

class Iris(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, rows):
        return self.layers(rows)

def trained():
    return Iris()

instance = Iris()
number = 5

class Sum(nn.Module):
    def forward(self, rows):
        return rows.flatten(1).sum(1, keepdim=True)

class Flat(nn.Module):
    def forward(self, rows):
        return rows.sum(1)

class Guess(nn.Module):
    def forward(self, rows):
        return rows.sum(1, keepdim=True) + torch.rand(1)

class Branch(nn.Module):
    def forward(self, rows):
        return rows if rows.sum() > 0 else -rows

class One(nn.Module):
    def forward(self, rows):
        return rows.reshape(2, 4)

class NeedsSize(nn.Module):
    def __init__(self, size):
        super().__init__()

raise_later = lambda: 1 / 0
"""
CLASSES = ("--task", "classification", "--classes", "setosa,versicolor,virginica", "--softmax")
REGRESSION = ("--task", "regression", "--outputs", "sum:cm")
EXAMPLE = ("--example", "[5.1, 3.5, 1.4, 0.2]")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the repository in tmp_path: status, standard output, standard error."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/user_models.py").write_text(MODULES)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delitem(sys.modules, "user_models", raising=False)

    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        where = () if command == "digest" else ("--repository", str(tmp_path / "models"))
        status = main([command, *arguments, *where])
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


def test_a_module_is_exported_and_served(run: Run, tmp_path: Path) -> None:
    status, out, err = run("export", "user_models:trained", "--name", "iris", *EXAMPLE, *CLASSES)

    assert (status, err) == (0, "")
    assert "added iris/1" in out
    assert "(allowed: 1e-04)" in out
    version = Repository.open(tmp_path / "models").resolve("iris")
    assert version.manifest.classes == ["setosa", "versicolor", "virginica"]
    probabilities = Program.load(version).run(np.array([[5.1, 3.5, 1.4, 0.2]] * 3, dtype=np.float32))
    assert probabilities.shape == (3, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert run("check")[0] == 0


def test_an_existing_model_gets_its_next_version(run: Run, tmp_path: Path) -> None:
    run("export", "user_models:trained", "--name", "iris", *EXAMPLE, *CLASSES)

    assert run("export", "user_models:instance", "--name", "iris", "--softmax")[0] == 0
    assert Repository.open(tmp_path / "models").resolve("iris").version == "1"
    assert (
        run("export", "user_models:Iris", "--name", "iris", "--softmax", "--default", "--metric", "accuracy=0.9")[0]
        == 0
    )

    repository = Repository.open(tmp_path / "models")
    assert [version.version for version in repository.versions_of("iris")] == ["1", "2", "3"]
    assert repository.resolve("iris").version == "3"
    assert repository.resolve("iris").version_manifest.metrics == {"accuracy": 0.9}


@pytest.mark.parametrize("kind", ["npy", "json"])
def test_an_example_may_be_a_file(run: Run, tmp_path: Path, kind: str) -> None:
    example = tmp_path / f"example.{kind}"
    if kind == "npy":
        np.save(example, np.arange(6).reshape(2, 3))
    else:
        example.write_text("[[0, 1, 2], [3, 4, 5]]")

    assert run("export", "user_models:Sum", "--name", "sum", "--example", str(example), *REGRESSION)[0] == 0

    manifest = Repository.open(tmp_path / "models").resolve("sum").manifest
    assert manifest.input.shape == (2, 3)
    assert manifest.outputs is not None
    assert [(output.name, output.unit) for output in manifest.outputs] == [("sum", "cm")]


def test_features_have_names_and_units(run: Run, tmp_path: Path) -> None:
    names = ("--feature-names", "length:cm,width:cm,colour,age:d")
    assert run("export", "user_models:Sum", "--name", "sum", *EXAMPLE, *REGRESSION, *names)[0] == 0

    features = Repository.open(tmp_path / "models").resolve("sum").manifest.input.features
    assert features is not None
    assert [(feature.name, feature.unit) for feature in features] == [
        ("length", "cm"), ("width", "cm"), ("colour", None), ("age", "d"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("user_models:trained", "--name", "new"), "new is a new model, which needs --example, --task"),
        (("user_models:trained", "--name", "new", *EXAMPLE, "--task", "regression"), "needs --outputs"),
        (("user_models", "--name", "new", *EXAMPLE, *REGRESSION), "expected module:attr, got 'user_models'"),
        (("nowhere:x", "--name", "new", *EXAMPLE, *REGRESSION), "No module named 'nowhere'"),
        (("user_models:nothing", "--name", "new", *EXAMPLE, *REGRESSION), "has no attribute 'nothing'"),
        (("user_models:number", "--name", "new", *EXAMPLE, *REGRESSION), "'int' object is not callable"),
        (("user_models:raise_later", "--name", "new", *EXAMPLE, *REGRESSION), "ZeroDivisionError"),
        (("user_models:NeedsSize", "--name", "new", *EXAMPLE, *REGRESSION), "missing 1 required positional argument"),
        (("user_models:trained", "--name", "../new", *EXAMPLE, *REGRESSION), "name: String should match"),
        (("user_models:Sum", "--name", "new", "--version", "a/b", *EXAMPLE, *REGRESSION), "default_version: String"),
        (("user_models:Sum", "--name", "new", "--example", "[1, NaN]", *REGRESSION), "list of finite numbers"),
        (("user_models:Sum", "--name", "new", "--example", "[1, [2]]", *REGRESSION), "nested evenly"),
        (("user_models:Sum", "--name", "new", "--example", "[1", *REGRESSION), "--example: "),
        (("user_models:Sum", "--name", "new", "--example", "no.npy", *REGRESSION), "no.npy: No such file"),
        (("user_models:Sum", "--name", "new", *EXAMPLE, *REGRESSION, "--metric", "x"), "expected NAME=NUMBER"),
        (("user_models:Sum", "--name", "new", *EXAMPLE, *REGRESSION, "--feature-names", "a"), "1 features are named"),
        (("user_models:trained", "--name", "new", *EXAMPLE, *REGRESSION), r"[rows, 3], the manifest says [rows, 1]"),
        (("user_models:trained", "--name", "new", *EXAMPLE, *CLASSES[:-1]), "logits needs --softmax"),
        (("user_models:Flat", "--name", "new", *EXAMPLE, *REGRESSION), "[rows], the manifest says [rows, 1]"),
        (("user_models:Guess", "--name", "new", *EXAMPLE, *REGRESSION), "differs from the module by"),
        (("user_models:Branch", "--name", "new", *EXAMPLE, *REGRESSION), "torch cannot export it"),
        (("user_models:One", "--name", "new", *EXAMPLE, *REGRESSION), "it takes one number of rows only"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line_and_leaves_nothing_behind(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    status, out, err = run("export", *arguments)

    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert complaint in err
    assert list((tmp_path / "models").glob("**/*")) == []


def test_a_version_is_not_overwritten_nor_a_manifest_changed(run: Run, tmp_path: Path) -> None:
    run("export", "user_models:Sum", "--name", "sum", *EXAMPLE, *REGRESSION)
    before = {file: file.read_bytes() for file in (tmp_path / "models").rglob("*.*")}

    assert "sum/1 exists" in run("export", "user_models:Sum", "--name", "sum", "--version", "1")[2]
    assert (
        "leave out --example, --task, --outputs"
        in run("export", "user_models:Sum", "--name", "sum", *EXAMPLE, *REGRESSION)[2]
    )

    assert {file: file.read_bytes() for file in (tmp_path / "models").rglob("*.*")} == before


def test_check_lists_what_is_served_and_why_the_rest_is_not(run: Run, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(HERE / "model_repository", models)
    assert run("check")[0] == 0
    (models / "penguins/1/model.pt2").write_bytes(b"damaged")
    (models / "digits/model.yaml").unlink()

    status, out, _ = run("check")

    lines = {line.split()[0]: line for line in out.splitlines()}
    assert status == 1
    assert lines["digits"].endswith("refused  model.yaml: No such file or directory")
    assert "refused  model.pt2: sha256 is" in lines["penguins/1"]
    assert "ok" in lines["penguins/2"]
    assert "ok" in lines["penguin-mass/1"]


def test_check_fails_on_an_empty_and_on_a_missing_repository(run: Run, tmp_path: Path) -> None:
    assert run("check") == (2, "", f"error: {tmp_path / 'models'}: No such file or directory\n")
    (tmp_path / "models").mkdir()
    assert run("check") == (1, f"no model in {tmp_path / 'models'}\n", "")


def test_a_directory_that_is_dropped_in_is_served(run: Run, tmp_path: Path) -> None:
    run("export", "user_models:Sum", "--name", "sum", *EXAMPLE, *REGRESSION)
    models = tmp_path / "models"
    (models / "sum").rename(tmp_path / "sum")
    assert run("check")[0] == 1

    shutil.copytree(tmp_path / "sum", models / "sum")

    assert run("check")[0] == 0


def test_digest_prints_what_sha256sum_prints(run: Run) -> None:
    artefact = HERE / "model_repository/penguins/2/model.pt2"

    assert run("digest", str(artefact)) == (0, f"{sha256_of(artefact)}  {artefact}\n", "")


def test_it_runs_as_a_command_that_finds_modules_where_it_is_started(run: Run, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "api", "export", "user_models:Sum", "--name", "sum", *EXAMPLE]
    command += [*REGRESSION, "--repository", "here"]
    result = subprocess.run(
        command,
        cwd=tmp_path / "code",
        env={"PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert "added sum/1 to here" in result.stdout
    assert (tmp_path / "code/here/sum/1/model.pt2").exists()
