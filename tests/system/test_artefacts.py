"""A replica whose repository holds artefacts that would run code: it says which it refused, serves the rest, and no
trap is sprung. Each trap is shown to work first, on the loader that it was made for."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from api.models import pt2
from api.settings import Settings
from tests.servers import ROOT, Postgres, Redis, Replica


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int]]:
        return os.open, (str(self.file), os.O_CREAT | os.O_WRONLY)


class Probabilities(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(3))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.softmax(rows @ self.weight, dim=1)


class Traps:
    """A repository with one version of penguins for each attack, and the file that each would write."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "models"
        self.sprung = folder / "sprung"
        self.sprung.mkdir()
        shutil.copytree(Settings().model_repository, self.root)
        self._saved = _saved()

    def trap(self, version: str) -> Trap:
        return Trap(self.sprung / version)

    def add(self, version: str, artefact: bytes) -> None:
        """As a version whose sha256 is right: whoever can put a file there can digest it, too."""
        directory = self.root / "penguins" / version
        shutil.copytree(self.root / "penguins" / "1", directory)
        (directory / "model.pt2").write_bytes(artefact)
        manifest = yaml.safe_load((directory / "version.yaml").read_text())
        manifest["sha256"] = hashlib.sha256(artefact).hexdigest()
        (directory / "version.yaml").write_text(yaml.safe_dump(manifest))

    def archive(self, **members: bytes) -> bytes:
        """What torch.export.save makes, with members put in."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in (self._saved | members).items():
                archive.writestr(f"model/{name}", content)
        return buffer.getvalue()

    def program(self, change: Callable[[dict[str, Any]], None]) -> bytes:
        program = json.loads(self._saved[pt2.PROGRAM])
        change(program)
        return json.dumps(program).encode()

    def weights(self, version: str) -> dict[str, bytes]:
        """A weight that says it is pickled, and is a trap."""
        config = json.loads(self._saved[pt2.CONFIGS[0]])
        [entry] = config["config"].values()
        entry["use_pickle"] = True
        weight = pickle.dumps(self.trap(version))
        return {pt2.CONFIGS[0]: json.dumps(config).encode(), pt2.WEIGHTS + entry["path_name"]: weight}


def _saved() -> dict[str, bytes]:
    buffer = io.BytesIO()
    dynamic = ({0: torch.export.Dim("rows", min=1)},)
    exported = torch.export.export(Probabilities(), (torch.zeros(2, 3),), dynamic_shapes=dynamic)
    torch.export.save(exported, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Traps:
    """The versions are named after what is wrong with them."""
    traps = Traps(tmp_path_factory.mktemp("traps"))
    tensors = io.BytesIO()
    torch.save({"weight": traps.trap("pickle")}, tensors)
    traps.add("pickle", tensors.getvalue())
    traps.add("bare-pickle", pickle.dumps(traps.trap("bare-pickle")))
    traps.add("weight", traps.archive(**traps.weights("weight")))
    traps.add("example", traps.archive(**{"data/sample_inputs/model.pt": pickle.dumps(traps.trap("example"))}))

    def expression(program: dict[str, Any]) -> None:
        for value in program["graph_module"]["graph"]["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = f"__import__('os').mkdir('{traps.sprung / 'expression'}')"

    traps.add("expression", traps.archive(**{pt2.PROGRAM: traps.program(expression)}))
    (traps.root / "digits" / "1" / "model.pt2").write_bytes(b"tampered with")
    manifest = traps.root / "penguin-mass" / "model.yaml"
    call = f"!!python/object/apply:os.mkdir ['{traps.sprung / 'yaml'}']\n"
    manifest.write_text(f"{manifest.read_text()}\nnote: {call}")
    return traps


def spring(traps: Traps) -> None:
    """Each trap, by who would fall into it."""
    artefact = {version: (traps.root / "penguins" / version / "model.pt2").read_bytes() for version in REFUSED}
    loaders: dict[str, Callable[[], object]] = {
        "pickle": lambda: torch.load(io.BytesIO(artefact["pickle"]), weights_only=False),
        "bare-pickle": lambda: pickle.loads(artefact["bare-pickle"]),
        "weight": lambda: torch.export.load(io.BytesIO(artefact["weight"])),
        "expression": lambda: torch.export.load(io.BytesIO(artefact["expression"])),
        "yaml": lambda: yaml.unsafe_load((traps.root / "penguin-mass" / "model.yaml").read_text()),
    }
    for name, load in loaders.items():
        with contextlib.suppress(Exception):  # sprung by then, whatever the loader says of what it was given
            load()
        assert (traps.sprung / name).exists(), f"{name} is no trap"
    for path in traps.sprung.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


REFUSED = ("pickle", "bare-pickle", "weight", "expression")


def test_an_artefact_that_would_run_code_is_refused_and_runs_none(
    traps: Traps, shared_postgres: Postgres, redis: Redis, folders: Callable[[], Path]
) -> None:
    spring(traps)
    replica = Replica(
        folders(),
        postgres_dsn=shared_postgres.dsn,
        redis_url=redis.url,
        spool=folders(),
        SHOAL_MODEL_REPOSITORY=str(traps.root),
    )
    try:
        replica.start()
        models = get(replica, "/models")
        served = {version["version"] for model in models["models"] for version in model["versions"]}
        refused = {each["path"]: each["reason"] for each in models["refused"]}
        answer = predict(replica, "/predict")
        of_example = predict(replica, "/models/penguins/versions/example/predict")
        log = replica.log.read_text()
    finally:
        replica.close()

    assert refused.keys() == {*(f"penguins/{version}" for version in REFUSED), "digits/1", "penguin-mass"}
    assert "sha256 is" in refused["digits/1"]
    assert "pickled" in refused["penguins/weight"]
    assert "expression" in refused["penguins/expression"]
    assert "not an archive" in refused["penguins/bare-pickle"]
    assert "not of torch.export" in refused["penguins/pickle"]
    assert "python/object/apply" in refused["penguin-mass"]
    for path, reason in refused.items():
        assert f"refused {path}: " in log
        assert "\n" not in reason
    # Its example inputs are a trap, which nobody needs: the program is served without them.
    assert served == {"1", "2", "example"}
    assert (answer["version"], of_example["version"]) == ("2", "example")
    assert list(traps.sprung.iterdir()) == []


def test_the_command_that_checks_a_repository_runs_none_either(traps: Traps) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "api", "check", "--repository", str(traps.root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 1, checked.stderr
    assert checked.stdout.count("refused") == len(REFUSED) + 2
    assert list(traps.sprung.iterdir()) == []


def get(replica: Replica, path: str) -> Any:
    with urllib.request.urlopen(f"http://{replica.address}{path}", timeout=10) as reply:
        return json.load(reply)


def predict(replica: Replica, path: str) -> Any:
    request = urllib.request.Request(
        f"http://{replica.address}{path}", b'{"features":[39.1,18.7,181]}', {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)
