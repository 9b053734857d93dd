"""Runs exported programs. The one module of a replica that imports torch."""

from __future__ import annotations

import hashlib
import io
import math
import operator
import statistics
import time
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.export.pt2_archive._package import load_pt2

from api.errors import ModelFailed
from api.models import pt2
from api.models.cgroups import cpus
from api.models.repository import ModelVersion

Rows = npt.NDArray[np.float32]
Outputs = npt.NDArray[np.float32]

_WARM_UP_RUNS = 20
_WARM_UP_SECONDS = 0.5
_PROBABILITY_TOLERANCE = 1e-3
_SAVED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class InvalidArtefact(ValueError):
    """The artefact is no program, or not the one that its manifest describes. The message is one line."""


class Program:
    """A model version, ready to run. One thread at a time may use it."""

    def __init__(self, version: ModelVersion, exported: torch.export.ExportedProgram, device: str) -> None:
        """Use `load`."""
        self._name = f"{version.name}/{version.version}"
        self._output_width = version.output_width
        self._is_classification = version.manifest.task == "classification"
        self._example = np.array([version.manifest.example], dtype=np.float32)
        self._device = "cpu"
        self._on_cpu = True
        self._wanted_device = device
        self._exported = exported
        self._prepare()

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
        _check_signature(exported, version)
        return cls(version, exported, device)

    def run(self, rows: Rows) -> Outputs:
        """Probabilities of a classification, values of a regression.

        An exported program is usually called through `ep.module()`. That flattens arguments, runs hooks and looks up
        every weight by name: 129 us for one row of penguins/2 on one core. Its graph's own `forward` takes the weights
        as arguments and is nothing but the operators: 23 us, and 35 us with everything below.

        Args:
            rows: float32, shape (rows, *input_shape), in memory that the program may overwrite.
        Returns:
            float32, shape (rows, output_width).
        Raises:
            ModelFailed: the program raised, or what it gave is no answer: shape, NaN, infinity, no probabilities.
        """
        try:
            with torch.inference_mode():
                tensor = torch.from_numpy(rows)
                if self._on_cpu:
                    (result,) = self._forward(*self._weights, tensor)
                else:
                    result = self._forward(*self._weights, tensor.to(self._device))[0].cpu()
                outputs: Outputs = result.numpy()
        except Exception as error:  # whatever an operator may raise
            raise ModelFailed(f"{self._name} failed: {type(error).__name__}") from error
        self._check(outputs, len(rows))
        return outputs

    def warm_up(self, max_rows: int) -> float:
        """Moves the program to its device and runs it with 1 row and with `max_rows`; only after a fork.

        Returns:
            The median seconds of a run with one row.
        Raises:
            ModelFailed: it cannot answer its own example.
        """
        if self._wanted_device == "cuda" or (self._wanted_device == "auto" and torch.cuda.is_available()):
            self._move_to("cuda")
        self.run(self._example.copy())
        self.run(np.repeat(self._example, max_rows, axis=0))
        seconds: list[float] = []
        stop = time.perf_counter() + _WARM_UP_SECONDS
        while len(seconds) < _WARM_UP_RUNS and (not seconds or time.perf_counter() < stop):
            row = self._example.copy()
            begun = time.perf_counter()
            self.run(row)
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds)

    def _prepare(self) -> None:
        self._forward = self._exported.graph_module.forward
        self._weights = _weights(self._exported)

    def _move_to(self, device: str) -> None:
        from torch.export.passes import move_to_device_pass

        try:
            self._exported = move_to_device_pass(self._exported, device)
            self._prepare()
        except Exception as error:  # no CUDA, no memory left, or a driver that does not fit
            raise ModelFailed(f"{self._name} cannot run on {device}: {one_line(error)}") from error
        self._device = device
        self._on_cpu = False

    def _check(self, outputs: Outputs, rows: int) -> None:
        # 4 us, for an answer that is none would be cached, logged and believed.
        if outputs.shape != (rows, self._output_width) or outputs.dtype != np.float32:
            expected = f"float32 {[rows, self._output_width]}"
            raise ModelFailed(f"{self._name} gave {outputs.dtype} {list(outputs.shape)}, expected {expected}")
        if self._is_classification:
            # NaN and infinity fail these too.
            if outputs.min() >= 0 and np.abs(outputs.sum(axis=1) - 1).max() <= _PROBABILITY_TOLERANCE:
                return
        elif np.isfinite(outputs).all():
            return
        if not np.isfinite(outputs).all():
            raise ModelFailed(f"{self._name} gave NaN or infinity")
        raise ModelFailed(f"{self._name} gave no probabilities: they are negative, or do not sum to 1")


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


def _check_signature(exported: torch.export.ExportedProgram, version: ModelVersion) -> None:
    """Compares what the program says of itself with the manifest.

    Raises:
        InvalidArtefact: they differ.
    """
    signature = exported.graph_signature
    inputs = [spec for spec in signature.input_specs if spec.kind not in _SAVED]
    outputs = [spec.kind for spec in signature.output_specs]
    if [spec.kind for spec in inputs] != [InputKind.USER_INPUT]:
        raise InvalidArtefact(f"the program takes {len(inputs)} inputs, expected one tensor")
    if OutputKind.BUFFER_MUTATION in outputs or _writes_to_weights(exported, inputs[0].arg.name):
        raise InvalidArtefact("the program changes its own state as it runs, so its answers would depend on the past")
    if outputs != [OutputKind.USER_OUTPUT]:
        raise InvalidArtefact(f"the program gives {len(outputs)} outputs, expected one tensor")
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    rows = _check_tensor("input", values.get(inputs[0].arg.name), version.input_shape)
    result = _check_tensor("output", values.get(signature.output_specs[0].arg.name), (version.output_width,))
    if str(rows) != str(result):
        raise InvalidArtefact(f"the program gives {result} rows for {rows}")
    _check_rows(exported, rows, version.version_manifest.max_batch_rows)


def _check_tensor(which: str, value: object, shape: tuple[int, ...]) -> int | torch.SymInt:
    """Returns its number of rows: an int, or a symbol where any number will do."""
    if not isinstance(value, torch.Tensor):
        raise InvalidArtefact(f"the program's {which} is no tensor")
    if value.dtype != torch.float32:
        raise InvalidArtefact(f"the program's {which} is {str(value.dtype).removeprefix('torch.')}, expected float32")
    if str(list(value.shape[1:])) != str(list(shape)):  # as text: a symbol must not be compared, that would bind it
        expected = _shape(("rows", *shape))
        raise InvalidArtefact(f"the program's {which} is {_shape(value.shape)}, the manifest says {expected}")
    return value.shape[0]


def _writes_to_weights(exported: torch.export.ExportedProgram, rows: str) -> bool:
    """Whether an operator that works in place is given a weight, or a view of one."""
    for module in exported.graph_module.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        # In a region such as torch.no_grad()'s we do not follow what it is given, and suspect all of it.
        suspects = {node for node in module.graph.nodes if node.op == "placeholder" and node.name != rows}
        for node in module.graph.nodes:
            if node.target is operator.getitem and node.args[0] in suspects:
                suspects.add(node)
            if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
                continue
            for index, argument in enumerate(node.target._schema.arguments):
                value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
                if argument.alias_info is None or not isinstance(value, torch.fx.Node) or value not in suspects:
                    continue
                if argument.alias_info.is_write:
                    return True
                suspects.add(node)
    return False


def _check_rows(exported: torch.export.ExportedProgram, rows: int | torch.SymInt, most: int | None) -> None:
    if isinstance(rows, int):
        lower = upper = float(rows)
    else:
        allowed = exported.range_constraints[rows.node.expr]
        lower, upper = float(allowed.lower), float(allowed.upper)
    if lower > 1:
        raise InvalidArtefact(f"the program takes at least {lower:g} rows, expected 1; export it with a dynamic batch")
    if upper < (most or math.inf):
        hint = "export it with a dynamic batch, or set max_batch_rows in version.yaml"
        raise InvalidArtefact(f"the program takes at most {upper:g} rows at once; {hint}")


def _weights(exported: torch.export.ExportedProgram) -> list[torch.Tensor]:
    """What the graph takes before the rows, in its order."""
    saved = {**exported.constants, **exported.state_dict}
    return [
        saved[spec.target].detach()
        for spec in exported.graph_signature.input_specs
        if spec.kind in _SAVED and spec.target is not None
    ]


def _shape(shape: Iterable[object]) -> str:
    return f"[{', '.join('rows' if isinstance(size, torch.SymInt) else str(size) for size in shape)}]"


def one_line(error: Exception) -> str:
    """An exception of torch or of a module, whose messages run to pages."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {line[:200]}"
