from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from api.errors import UnknownModel, UnknownVersion
from api.models.repository import Repository, sha256_of
from tests.unit.models.conftest import Add


def refusals(root: Path) -> dict[str, str]:
    found = {refusal.path: refusal.reason for refusal in Repository.open(root).refusals}
    assert not any("\n" in reason for reason in found.values())
    return found


def test_every_version_is_found(add: Add, tmp_path: Path) -> None:
    for version in ("9", "10", "1"):
        add(b"an artefact", version=version)

    repository = Repository.open(tmp_path)

    assert repository.refusals == []
    assert repository.names() == ["double"]
    assert [version.version for version in repository.versions_of("double")] == ["1", "9", "10"]


def test_the_default_version_answers_unless_another_is_named(add: Add, tmp_path: Path) -> None:
    add(b"an artefact", version="1")
    add(b"another", version="2", default_version="1")
    repository = Repository.open(tmp_path)

    assert repository.resolve("double").version == "1"
    assert repository.resolve("double", "2").version == "2"


def test_the_newest_answers_where_the_default_was_refused(add: Add, tmp_path: Path) -> None:
    for version in ("1", "9", "10"):
        add(b"an artefact", version=version)
    repository = Repository.open(tmp_path)

    repository.refuse(repository.resolve("double"), "it does not load")

    assert repository.resolve("double").version == "10"
    assert [(refusal.path, refusal.reason) for refusal in repository.refusals] == [("double/1", "it does not load")]


def test_an_unknown_name_is_told_what_there_is(add: Add, tmp_path: Path) -> None:
    add(b"an artefact")
    repository = Repository.open(tmp_path)

    with pytest.raises(UnknownModel, match="no model 'triple' is served; there are: double"):
        repository.resolve("triple")
    with pytest.raises(UnknownVersion, match="no version '7' of double is served; there are: 1"):
        repository.resolve("double", "7")


def test_a_changed_artefact_is_refused_and_the_others_are_served(add: Add, tmp_path: Path) -> None:
    add(b"an artefact", version="1")
    broken = add(b"an artefact", version="2")
    broken.artefact.write_bytes(b"an artefacT")

    assert "sha256 is" in refusals(tmp_path)["double/2"]
    assert [version.version for version in Repository.open(tmp_path).versions_of("double")] == ["1"]


def test_missing_and_broken_files_are_refused_and_the_others_are_served(add: Add, tmp_path: Path) -> None:
    add(b"an artefact", name="good")
    for version in ("1", "2", "3", "4"):
        add(b"an artefact", version=version)
    (tmp_path / "double/1/model.pt2").unlink()
    (tmp_path / "double/2/version.yaml").unlink()
    (tmp_path / "double/3/version.yaml").write_text("{ not: [yaml")
    (tmp_path / "double/4/version.yaml").write_text("- a\n- list\n")
    (tmp_path / "empty").mkdir()
    add(b"an artefact", name="liar").artefact.parent.parent.rename(tmp_path / "other")
    (tmp_path / "no version").mkdir()

    found = refusals(tmp_path)

    assert Repository.open(tmp_path).names() == ["good"]
    assert found["double/1"] == "model.pt2: No such file or directory"
    assert found["double/2"] == "version.yaml: No such file or directory"
    assert found["double/3"].startswith("version.yaml is not YAML")
    assert found["double/4"].startswith("version.yaml: ")
    assert found["empty"] == "model.yaml: No such file or directory"
    assert found["other"] == "model.yaml: name is 'liar', but the directory is 'other'"
    assert found["no version"].startswith("a name is of letters")


def test_a_default_version_that_is_not_there_is_reported(add: Add, tmp_path: Path) -> None:
    add(b"an artefact", default_version="7")

    assert "there is no such directory" in refusals(tmp_path)["double/7"]
    assert Repository.open(tmp_path).resolve("double").version == "1"


def test_a_model_without_a_version_is_reported(add: Add, tmp_path: Path) -> None:
    add(b"an artefact").artefact.parent.rename(tmp_path / "double/.hidden")

    assert refusals(tmp_path)["double"].startswith("no version")


def test_an_export_under_way_is_not_looked_at(add: Add, tmp_path: Path) -> None:
    add(b"an artefact")
    (tmp_path / ".export-1" / "half").mkdir(parents=True)
    (tmp_path / "README.md").write_text("Files are nobody's model.")

    assert refusals(tmp_path) == {}


def test_a_repository_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Repository.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": [{"name": "b"}, {"name": "a"}]},
        {"outputs": [{"name": "a"}, {"name": "b", "unit": "kg"}]},
        {"input": {"name": "rows", "shape": [2, 1]}, "example": [[1], [2]]},
    ],
)
def test_whatever_shapes_an_answer_changes_the_digest(add: Add, change: dict[str, Any]) -> None:
    assert add(b"an artefact", name="one").digest != add(b"an artefact", name="two", **change).digest


def test_other_weights_have_another_digest_and_other_words_the_same(add: Add) -> None:
    one = add(b"an artefact", name="one")
    worded = add(b"an artefact", name="worded", description="Otherwise.", example=[3, 4])
    other = add(b"another", name="other")

    assert one.digest == worded.digest  # names and versions are in the cache's key beside it
    assert one.digest != other.digest


def test_a_digest_is_what_sha256sum_prints(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"an artefact")

    assert sha256_of(file) == hashlib.sha256(b"an artefact").hexdigest()
