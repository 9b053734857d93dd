"""From a torch.nn.Module to a version in the repository: exported, compared with the original, put in place whole."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml

from api.models import pt2
from api.models.manifest import TOLERANCES, Manifest, VersionManifest
from api.models.repository import (
    ARTEFACT_FILE,
    MODEL_FILE,
    VERSION_FILE,
    ModelVersion,
    Unusable,
    read_manifest,
    read_version,
)
from api.models.runtime import InvalidArtefact, Program, one_line

_BATCHES = (1, 2, 3, 7, 64)
_INPUT = "rows"


class CannotExport(ValueError):
    """The module cannot be exported as asked. The message is one line, for whoever asked."""


class WithSoftmax(torch.nn.Module):
    """A module that gives logits, made to give probabilities."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.module(rows), dim=-1)


def export(module: torch.nn.Module, row: npt.NDArray[np.float32], max_batch_rows: int | None = None) -> bytes:
    """Exports a module that maps float32 (rows, *shape) to (rows, width), for any number of rows.

    Args:
        row: any one row, float32, shape (*shape).
        max_batch_rows: most rows that the module can take; None if there is no limit.
    Returns:
        The archive, as pt2.clean leaves it: the same for the same module.
    Raises:
        CannotExport: torch cannot, or the program would not be one that is served.
    """
    rows = torch.from_numpy(np.stack([row, row]))  # two: torch takes a dimension of 1 for a constant
    batch = torch.export.Dim(_INPUT, min=1, max=max_batch_rows)
    buffer = io.BytesIO()
    try:
        # What torch says on the way is for its own developers: warnings, and whole graphs on standard error.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), _no_logs():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module.eval(), (rows,), dynamic_shapes=({0: batch},))
            torch.export.save(exported, buffer)
        return pt2.clean(buffer.getvalue())
    except torch._dynamo.exc.UserError as error:
        if "Constraints violated" in str(error):
            raise CannotExport(
                "it takes one number of rows only; it must take any, from 1 (rows.shape[0] is any, len(rows) is one)"
            ) from error
        raise CannotExport(f"torch cannot export it: {one_line(error)}") from error
    except pt2.Unsafe as error:
        raise CannotExport(str(error)) from error
    except Exception as error:  # torch raises anything at all, and so does the module
        raise CannotExport(f"torch cannot export it: {one_line(error)}") from error


def publish(
    root: Path,
    manifest: Manifest,
    version: str,
    archive: bytes,
    version_fields: dict[str, Any],
    *,
    original: torch.nn.Module,
    replace: bool = False,
) -> tuple[ModelVersion, float]:
    """Adds a version to the repository, and its model where that is new.

    Everything is first written to a hidden directory beside its place and tried there as it would be served, then
    renamed: a server that starts meanwhile sees all of it or nothing. The model's manifest is written last, so it
    never names a version that is not there yet.

    Args:
        version_fields: of VersionManifest, without format and sha256.
        original: what the program must agree with.
        replace: whether the version may be there already.
    Returns:
        The version, and the largest difference seen, relative to the largest output.
    Raises:
        CannotExport: the manifest is wrong about the program, the program differs from the original, or the version
            exists.
    """
    place = root / manifest.name / version
    if place.exists() and not replace:
        raise CannotExport(f"{manifest.name}/{version} exists; versions are not changed, choose another --version")
    sha256 = hashlib.sha256(archive).hexdigest()
    version_manifest = VersionManifest(sha256=sha256, **version_fields)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=root) as temporary:
        model = Path(temporary, manifest.name)
        staged = model / version
        staged.mkdir(parents=True)
        (staged / ARTEFACT_FILE).write_bytes(archive)
        _write_yaml(staged / VERSION_FILE, version_manifest.model_dump(exclude_none=True))
        _write_yaml(model / MODEL_FILE, manifest.model_dump(exclude_none=True))
        difference = _tried(model, version, original)
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            os.rename(place, Path(temporary, "replaced"))
        os.rename(staged, place)
        os.replace(model / MODEL_FILE, place.parent / MODEL_FILE)
    return read_version(read_manifest(place.parent), place), difference


def _tried(model: Path, version: str, original: torch.nn.Module) -> float:
    try:
        staged = read_version(read_manifest(model), model / version)
        program = Program.load(staged, device="cpu")
    except (Unusable, InvalidArtefact) as error:
        raise CannotExport(str(error)) from error
    return compare(program, original, staged)


def compare(program: Program, original: torch.nn.Module, version: ModelVersion) -> float:
    """Runs both on the example and on random rows, at several batch sizes.

    The rows are drawn between the smallest and the largest number of the example: finite, and plausible to modules
    that look things up by number.

    Returns:
        The largest difference, relative to the largest output.
    Raises:
        CannotExport: they differ by more than manifest.TOLERANCES allows, or one of them fails.
    """
    example = np.array(version.manifest.example, dtype=np.float32)
    random = np.random.default_rng(0)
    most = version.version_manifest.max_batch_rows or math.inf
    allowed = TOLERANCES[version.manifest.input.dtype]
    worst = 0.0
    for batch in _BATCHES:
        if batch > most:
            break
        rows = random.uniform(example.min(), example.max(), (batch, *example.shape)).astype(np.float32)
        rows[0] = example
        try:
            with torch.inference_mode():
                expected = original.eval()(torch.from_numpy(rows.copy())).numpy()
            given = program.run(rows)
        except Exception as error:  # of the module, or our own verdict on its program
            hint = "" if version.manifest.task == "regression" else " (a module that gives logits needs --softmax)"
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise CannotExport(f"it fails on a batch of {batch}: {one_line(cause)}{hint}") from error
        difference = float(np.abs(given - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
        if not difference <= allowed:
            raise CannotExport(
                f"the exported program differs from the module by {difference:.1e} of the largest output on a batch of"
                f" {batch}, allowed are {allowed:.0e}"
            )
        worst = max(worst, difference)
    return worst


@contextmanager
def _no_logs() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _write_yaml(file: Path, content: dict[str, Any]) -> None:
    # default_flow_style: a list of plain numbers or a feature stands on one line.
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    file.write_text(text, encoding="utf-8")
