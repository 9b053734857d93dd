"""Runs exported programs. With signature.py, lowering.py and staging.py all of a replica that imports torch."""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.export.pt2_archive._package import load_pt2

from api.errors import ModelFailed
from api.models import pt2
from api.models.cgroups import cpus
from api.models.lowering import lower
from api.models.repository import ModelVersion
from api.models.signature import Mismatch, check_signature
from api.models.staging import Outputs, Staging

Rows = npt.NDArray[np.float32]

_STAGINGS = 2  # one runs, one is put together
_WARM_UP_RUNS = 20
_WARM_UP_SECONDS = 0.5
_PROBABILITY_TOLERANCE = 1e-3
_SMALL = (
    64  # numbers; up to here Python looks through them faster than numpy gets going: 4 us instead of 25 for one row
)


class InvalidArtefact(ValueError):
    """The artefact is no program, or not the one that its manifest describes. The message is one line."""


class Program:
    """A model version, ready to run. One thread at a time may run it, while another stages the next batch."""

    def __init__(self, version: ModelVersion, exported: torch.export.ExportedProgram, device: str) -> None:
        """Use `load`."""
        self._name = f"{version.name}/{version.version}"
        self._row_shape = version.input_shape
        self._output_width = version.output_width
        self._is_classification = version.manifest.task == "classification"
        self._example = np.array([version.manifest.example], dtype=np.float32)
        self._wanted_device = device
        self._exported: torch.export.ExportedProgram | None = exported
        self._device = torch.device("cpu")
        self._forward, self._weights = lower(exported, channels_last=True)
        self._staging_rows = 1
        self._free: list[Staging] = []

    @classmethod
    def load(cls, version: ModelVersion, device: str = "auto") -> Program:
        """Loads a program and compares its signature with the manifest's, without running it.

        Safe before a fork, where it belongs: workers share the weights. Even `device="cuda"` is not touched before
        the warm-up, as CUDA does not survive a fork.

        Args:
            device: auto (the GPU where there is one), cpu or cuda.
        Raises:
            InvalidArtefact: the file is not the one whose digest was verified; it is broken, may run code, or is
                another program than its manifest says.
        """
        torch.set_num_threads(1)  # nothing here may start torch's threads, which a fork would leave behind
        try:
            archive = version.artefact.read_bytes()
        except OSError as error:
            raise InvalidArtefact(f"{version.artefact.name}: {error.strerror}") from error
        if hashlib.sha256(archive).hexdigest() != version.version_manifest.sha256:
            raise InvalidArtefact("the artefact has changed since its digest was verified")
        exported = load_exported(archive)
        try:
            check_signature(exported, version)
        except Mismatch as error:
            raise InvalidArtefact(str(error)) from error
        return cls(version, exported, device)

    def stage(self, rows: Sequence[bytes]) -> Staging:
        """Puts a batch together for `run_staged`, and sends it on its way where the device is a GPU.

        Args:
            rows: one or more, each the bytes of float32 (*input_shape).
        """
        staging = self._staging(len(rows))
        staging.put(rows)
        return staging

    def run_staged(self, staged: Staging) -> Outputs:
        """Probabilities of a classification, values of a regression; in the order of the rows that were staged. No
        other batch may run meanwhile. The staging is the program's again, however it ends.

        Returns:
            float32, shape (rows, output_width), in memory of its own.
        Raises:
            ModelFailed: the program raised, or what it gave is no answer: shape, NaN, infinity, no probabilities.
        """
        try:
            with torch._C._InferenceMode(True):  # torch.inference_mode is this, and 2 us around it
                (result,) = self._forward(*self._weights, staged.inputs())
                outputs = staged.outputs(result)
        except Exception as error:  # whatever an operator may raise; its staging may still be read, so it is not kept
            raise ModelFailed(f"{self._name} failed: {type(error).__name__}") from error
        rows = staged.rows
        if len(self._free) < _STAGINGS:
            self._free.append(staged)
        self._check(outputs, rows)
        return outputs

    def run(self, rows: Rows) -> Outputs:
        """Stages and runs: for who has an array.

        Args:
            rows: float32, shape (rows, *input_shape); left as it is.
        Raises:
            ModelFailed: see run_staged.
        """
        if rows.dtype != np.float32 or rows.shape[1:] != self._row_shape:
            raise ModelFailed(f"{self._name} was given {rows.dtype} {list(rows.shape)}")
        staging = self._staging(len(rows))
        staging.put_joined(np.ascontiguousarray(rows).data.cast("B"), len(rows))
        return self.run_staged(staging)

    def warm_up(self, max_rows: int) -> float:
        """Moves the program to its device and runs it with 1 row and with `max_rows`; only after a fork.

        Returns:
            The fewest seconds that a run with one row took. Whatever else the machine does only adds to that: of a
            median of 20 runs of 30 us each, a moment of load made a model that seemed worth a thread.
        Raises:
            ModelFailed: it cannot answer its own example.
        """
        wants_gpu = self._wanted_device == "cuda" or (self._wanted_device == "auto" and torch.cuda.is_available())
        if wants_gpu and self._exported is not None:
            self._move_to(self._exported, "cuda")
        self._exported = None  # its weights are the program's own by now, or copies of them
        self._staging_rows = max_rows
        self._free = [self._new_staging(max_rows) for _ in range(_STAGINGS)]
        self.run(self._example)
        self.run(np.repeat(self._example, max_rows, axis=0))
        seconds: list[float] = []
        stop = time.perf_counter() + _WARM_UP_SECONDS
        row = [self._example.tobytes()]
        while len(seconds) < _WARM_UP_RUNS and (not seconds or time.perf_counter() < stop):
            begun = time.perf_counter()
            self.run_staged(self.stage(row))
            seconds.append(time.perf_counter() - begun)
        return min(seconds)

    def _staging(self, rows: int) -> Staging:
        staging = self._free.pop() if self._free else None
        if staging is None or staging.max_rows < rows:
            staging = self._new_staging(max(rows, self._staging_rows))
        return staging

    def _new_staging(self, rows: int) -> Staging:
        return Staging(rows, self._row_shape, self._output_width, self._device)

    def _move_to(self, exported: torch.export.ExportedProgram, device: str) -> None:
        from torch.export.passes import move_to_device_pass

        try:
            # The layout of convolutions is for CPUs: here it is measured, on GPUs it is not.
            self._forward, self._weights = lower(move_to_device_pass(exported, device), channels_last=False)
            self._device = torch.device(device)
        except Exception as error:  # no CUDA, no memory left, or a driver that does not fit
            raise ModelFailed(f"{self._name} cannot run on {device}: {one_line(error)}") from error

    def _check(self, outputs: Outputs, rows: int) -> None:
        # An answer that is none would be cached, logged and believed.
        if outputs.shape != (rows, self._output_width) or outputs.dtype != np.float32:
            expected = f"float32 {[rows, self._output_width]}"
            raise ModelFailed(f"{self._name} gave {outputs.dtype} {list(outputs.shape)}, expected {expected}")
        if outputs.size > _SMALL:
            are_fine = _are_probabilities(outputs) if self._is_classification else bool(np.isfinite(outputs).all())
        elif self._is_classification:
            # NaN and infinity fail these too: of the sum if not of the smallest.
            are_fine = all(min(row) >= 0 and abs(sum(row) - 1) <= _PROBABILITY_TOLERANCE for row in outputs.tolist())
        else:
            are_fine = all(math.isfinite(sum(row)) for row in outputs.tolist())  # of doubles: too wide to overflow
        if are_fine:
            return
        if not np.isfinite(outputs).all():
            raise ModelFailed(f"{self._name} gave NaN or infinity")
        raise ModelFailed(f"{self._name} gave no probabilities: they are negative, or do not sum to 1")


def _are_probabilities(outputs: Outputs) -> bool:
    off = np.add.reduce(outputs, axis=1)
    off -= 1
    np.absolute(off, out=off)
    return bool(np.minimum.reduce(outputs, axis=None) >= 0 and np.maximum.reduce(off) <= _PROBABILITY_TOLERANCE)


def use_threads(threads: int, workers: int) -> int:
    """Sets how many threads a run may use; only after a fork. 0: the CPU quota shared among the workers, at least 1.

    Returns:
        What was set.
    """
    chosen = threads or max(1, int(cpus() / workers))
    torch.set_num_threads(chosen)
    return chosen


def load_exported(archive: bytes) -> torch.export.ExportedProgram:
    """A program from the bytes of a .pt2 archive, of which only what pt2.py lets through is read.

    Raises:
        InvalidArtefact: it is broken, or may run code.
    """
    try:
        # Not torch.export.load: it swallows what went wrong, and then unpickles the file as one of an older format.
        return load_pt2(io.BytesIO(pt2.clean(archive))).exported_programs["model"]
    except pt2.Unsafe as error:
        raise InvalidArtefact(str(error)) from error
    except Exception as error:  # torch raises anything at all on a broken program
        raise InvalidArtefact(f"torch cannot load it: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """An exception of torch or of a module, whose messages run to pages."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {line[:200]}"
