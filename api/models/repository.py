"""The model repository on disk: `<name>/model.yaml` and `<name>/<version>/{version.yaml, model.pt2}`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from api.errors import UnknownModel, UnknownVersion
from api.models.manifest import NAME_PATTERN, Manifest, VersionManifest

MODEL_FILE = "model.yaml"
VERSION_FILE = "version.yaml"
ARTEFACT_FILE = "model.pt2"

_NAME = re.compile(NAME_PATTERN)
_Model = TypeVar("_Model", bound=BaseModel)


class Unusable(ValueError):
    """A file of the repository is not what it should be. The message is one line, for the operator."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model, its digest verified."""

    manifest: Manifest
    version_manifest: VersionManifest
    version: str

    digest: str
    """sha256 over the artefact's sha256 and everything else that shapes an answer. Part of the cache's keys: a model
    replaced under its old version never meets the answers of its predecessor."""

    artefact: Path

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one row."""
        return self.manifest.input.shape

    @property
    def output_width(self) -> int:
        """Numbers that the program gives for a row."""
        return self.manifest.output_width


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something in the repository that is not served."""

    path: str
    """Relative to the repository: `penguins` or `penguins/2`."""

    reason: str
    """One line."""


class Repository:
    """The models that may be served, and what was refused."""

    def __init__(self, versions: Mapping[tuple[str, str], ModelVersion], refusals: list[Refusal]) -> None:
        self._versions = dict(versions)
        self.refusals = refusals

    @classmethod
    def open(cls, root: Path) -> Repository:
        """Reads every manifest and verifies every digest. What is wrong with one model is no reason to refuse another.

        Raises:
            OSError: root is no directory that can be read.
        """
        versions: dict[tuple[str, str], ModelVersion] = {}
        refusals: list[Refusal] = []
        for directory in _directories(root):
            try:
                _check_name(directory)
                manifest = read_manifest(directory)
                version_directories = list(_directories(directory))
            except OSError as error:
                refusals.append(Refusal(directory.name, f"cannot be listed: {error.strerror}"))
                continue
            except Unusable as error:
                refusals.append(Refusal(directory.name, str(error)))
                continue
            found = set()
            for version_directory in version_directories:
                found.add(version_directory.name)
                try:
                    version = read_version(manifest, version_directory)
                except Unusable as error:
                    refusals.append(Refusal(f"{directory.name}/{version_directory.name}", str(error)))
                else:
                    versions[version.name, version.version] = version
            if not found:
                refusals.append(Refusal(directory.name, "no version: a directory such as 1 with version.yaml in it"))
            elif manifest.default_version not in found:
                path = f"{directory.name}/{manifest.default_version}"
                refusals.append(Refusal(path, f"the default_version of {MODEL_FILE}, but there is no such directory"))
        return cls(versions, refusals)

    @property
    def versions(self) -> Mapping[tuple[str, str], ModelVersion]:
        """By name and version."""
        return MappingProxyType(self._versions)

    def names(self) -> list[str]:
        return sorted({name for name, _ in self._versions})

    def versions_of(self, name: str) -> list[ModelVersion]:
        """The oldest first; 10 comes after 9. Empty for an unknown name."""
        mine = [version for version in self._versions.values() if version.name == name]
        return sorted(mine, key=lambda version: _by_number(version.version))

    def resolve(self, name: str, version: str | None = None) -> ModelVersion:
        """The version asked for; else the manifest's default; else, where that was refused, the newest.

        Raises:
            UnknownModel, UnknownVersion: the message says what there is.
        """
        mine = self.versions_of(name)
        if not mine:
            raise UnknownModel(f"no model {name[:64]!r} is served; there are: {', '.join(self.names()) or 'none'}")
        wanted = mine[-1].manifest.default_version if version is None else version
        found = self._versions.get((name, wanted))
        if found is not None:
            return found
        if version is None:
            return mine[-1]
        there = ", ".join(one.version for one in mine)
        raise UnknownVersion(f"no version {version[:64]!r} of {name} is served; there are: {there}")

    def refuse(self, version: ModelVersion, reason: str) -> None:
        """No longer serves a version whose program turned out not to load, or not to be what its manifest says."""
        del self._versions[version.name, version.version]
        self.refusals.append(Refusal(f"{version.name}/{version.version}", reason))


def read_manifest(directory: Path) -> Manifest:
    """model.yaml of a model's directory.

    Raises:
        Unusable: it is missing, no YAML, or not a manifest.
    """
    manifest = _read_yaml(directory / MODEL_FILE, Manifest)
    if manifest.name != directory.name:
        raise Unusable(f"{MODEL_FILE}: name is {manifest.name!r}, but the directory is {directory.name!r}")
    return manifest


def read_version(manifest: Manifest, directory: Path) -> ModelVersion:
    """A version's directory, its artefact verified.

    Raises:
        Unusable: a file is missing or broken, or the artefact's digest is not the manifest's.
    """
    _check_name(directory)
    version_manifest = _read_yaml(directory / VERSION_FILE, VersionManifest)
    artefact = directory / ARTEFACT_FILE
    try:
        actual = sha256_of(artefact)
    except OSError as error:
        raise Unusable(f"{ARTEFACT_FILE}: {error.strerror}") from error
    if actual != version_manifest.sha256:
        expected = version_manifest.sha256
        raise Unusable(f"{ARTEFACT_FILE}: sha256 is {actual[:12]}…, {VERSION_FILE} says {expected[:12]}…")
    return ModelVersion(manifest, version_manifest, directory.name, _digest(manifest, version_manifest), artefact)


def sha256_of(file: Path) -> str:
    """In hex, as `sha256sum` has it."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _digest(manifest: Manifest, version_manifest: VersionManifest) -> str:
    what_shapes_an_answer = manifest.model_dump(mode="json", include={"input", "task", "classes", "outputs"})
    what_shapes_an_answer |= version_manifest.model_dump(mode="json", include={"format", "sha256"})
    return hashlib.sha256(json.dumps(what_shapes_an_answer, sort_keys=True).encode()).hexdigest()


def _read_yaml(file: Path, kind: type[_Model]) -> _Model:
    try:
        return kind.model_validate(yaml.safe_load(file.read_bytes()))
    except OSError as error:
        raise Unusable(f"{file.name}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise Unusable(f"{file.name} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise Unusable(f"{file.name}: {in_one_line(error)}") from error
    except RecursionError as error:
        raise Unusable(f"{file.name}: nested too deeply") from error
    except (ValueError, OverflowError) as error:  # a date that no calendar has, a number beyond all bounds
        raise Unusable(f"{file.name}: {' '.join(str(error).split())}") from error


def in_one_line(error: ValidationError) -> str:
    """Every field that is wrong, and how."""
    problems = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        field = ".".join(str(part) for part in problem["loc"])
        message = " ".join(problem["msg"].removeprefix("Value error, ").split())
        problems.append(f"{field}: {message}" if field else message)
    return "; ".join(problems)


def _directories(root: Path) -> Iterator[Path]:
    # Hidden ones are somebody's own affair: an export under way, `..data` of Kubernetes.
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.name.startswith((".", "__")):
            yield path


def _check_name(directory: Path) -> None:
    if not _NAME.fullmatch(directory.name):
        raise Unusable("a name is of letters, digits, '.', '_' and '-', at most 64, and begins with a letter or digit")


def _by_number(version: str) -> list[tuple[int, int, str]]:
    """Sorts 2 before 10, and 1.9 before 1.10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", version) if part]
