"""What an exported program says of itself, held against its manifest, without running it."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable

import torch
from torch.export.graph_signature import InputKind, OutputKind

from api.models.lowering import SAVED
from api.models.repository import ModelVersion


class Mismatch(ValueError):
    """The program is not the one that its manifest describes. The message is one line."""


def check_signature(exported: torch.export.ExportedProgram, version: ModelVersion) -> None:
    """Raises Mismatch."""
    signature = exported.graph_signature
    inputs = [spec for spec in signature.input_specs if spec.kind not in SAVED]
    outputs = [spec.kind for spec in signature.output_specs]
    if [spec.kind for spec in inputs] != [InputKind.USER_INPUT]:
        raise Mismatch(f"the program takes {len(inputs)} inputs, expected one tensor")
    if OutputKind.BUFFER_MUTATION in outputs or _writes_to_weights(exported, inputs[0].arg.name):
        raise Mismatch("the program changes its own state as it runs, so its answers would depend on the past")
    if outputs != [OutputKind.USER_OUTPUT]:
        raise Mismatch(f"the program gives {len(outputs)} outputs, expected one tensor")
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    rows = _check_tensor("input", values.get(inputs[0].arg.name), version.input_shape)
    result = _check_tensor("output", values.get(signature.output_specs[0].arg.name), (version.output_width,))
    if str(rows) != str(result):
        raise Mismatch(f"the program gives {result} rows for {rows}")
    _check_rows(exported, rows, version.version_manifest.max_batch_rows)


def _check_tensor(which: str, value: object, shape: tuple[int, ...]) -> int | torch.SymInt:
    """Returns its number of rows: an int, or a symbol where any number will do."""
    if not isinstance(value, torch.Tensor):
        raise Mismatch(f"the program's {which} is no tensor")
    if value.dtype != torch.float32:
        raise Mismatch(f"the program's {which} is {str(value.dtype).removeprefix('torch.')}, expected float32")
    if str(list(value.shape[1:])) != str(list(shape)):  # as text: a symbol must not be compared, that would bind it
        expected = _shape(("rows", *shape))
        raise Mismatch(f"the program's {which} is {_shape(value.shape)}, the manifest says {expected}")
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
        raise Mismatch(f"the program takes at least {lower:g} rows, expected 1; export it with a dynamic batch")
    if upper < (most or math.inf):
        hint = "export it with a dynamic batch, or set max_batch_rows in version.yaml"
        raise Mismatch(f"the program takes at most {upper:g} rows at once; {hint}")


def _shape(shape: Iterable[object]) -> str:
    return f"[{', '.join('rows' if isinstance(size, torch.SymInt) else str(size) for size in shape)}]"
