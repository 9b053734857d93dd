"""Rewrites a program's graph so that a run costs less. It computes the same, with the same kernels.

A small model spends its time on the way to its kernels, not in them. Measured on one core, penguins/2 with one row:
80 us a run as exported, 27 us lowered and staged; digits/1 with 64 rows: 1.5 ms as exported, 0.84 ms lowered.

Everything here is a copy or a view of weights and a change of who calls what, so it is safe before a fork. A graph
with operators that are unknown here is served as it is, around those that are known.

AOTInductor was measured beside it (one core, one row and 64; a run of ours with its staging and checks, of AOTInductor
the bare call): penguins/2 11 and 22 us, AOTInductor 12 and 16 us; digits/1 29 and 332 us, AOTInductor 24 and 254 us.
Its package is machine code, which loading would run, made by a C++ compiler for one kind of CPU: not worth that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Graph, GraphModule, Node

Forward = Callable[..., tuple[Tensor]]
"""Weights, then rows, to a tuple of the one output."""

SAVED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
"""Inputs of a graph that come with it."""

aten: Any = torch.ops.aten

# A graph calls an operator through its OpOverload, which boxes every argument: 3 to 5 us each. torch's own functions
# parse them to the same kernel in 1 us. All of these give new memory.
_COMPUTED: dict[Any, Callable[..., Any]] = {
    aten._softmax.default: torch._softmax,
    aten.add.Tensor: torch.add,
    aten.addmm.default: torch.addmm,
    aten.clamp.default: torch.clamp,
    aten.clone.default: torch.clone,
    aten.conv2d.default: torch.conv2d,
    aten.div.Tensor: torch.div,
    aten.exp.default: torch.exp,
    aten.linear.default: torch._C._nn.linear,
    aten.max_pool2d.default: torch.max_pool2d,
    aten.mul.Tensor: torch.mul,
    aten.relu.default: torch.relu,
    aten.sigmoid.default: torch.sigmoid,
    aten.softmax.int: torch.softmax,
    aten.sub.Tensor: torch.sub,
    aten.tanh.default: torch.tanh,
}
_IN_PLACE: dict[Any, Callable[..., Any]] = {aten.clamp_.default: torch.clamp_, aten.relu_.default: torch.relu_}
_VIEWED: dict[Any, Callable[..., Any]] = {
    aten.flatten.using_ints: torch.flatten,
    aten.reshape.default: torch.reshape,
    aten.unsqueeze.default: torch.unsqueeze,
}
_FUNCTIONS = _COMPUTED | _IN_PLACE | _VIEWED


def lower(exported: torch.export.ExportedProgram, *, channels_last: bool) -> tuple[Forward, list[Tensor]]:
    """What to call, and the weights to call it with before the rows. The program is left as it is.

    An exported program is usually called through `ep.module()`. That flattens arguments, runs hooks and looks up every
    weight by name: 129 us for one row of penguins/2. Its graph's own `forward` takes the weights as arguments and is
    nothing but the operators.

    The output never lies in memory that the rows or the weights have.

    Args:
        channels_last: whether convolutions may keep the channels of a pixel together. Their sums are added up in
            another order then, within manifest.TOLERANCES.
    """
    graph = Graph()
    graph.output(graph.graph_copy(exported.graph, val_map={}))
    weights = _weights(exported, graph)
    _drop_what_does_nothing(graph)
    if channels_last:
        _keep_channels_together(graph, weights)
    _transpose_once(graph, weights)
    _call_softmax_directly(graph)
    _overwrite_what_is_used_up(graph)
    _own_the_output(graph)
    for node in graph.nodes:
        node.target = _FUNCTIONS.get(node.target, node.target) if node.op == "call_function" else node.target
    graph.lint()
    return GraphModule(exported.graph_module, graph).forward, list(weights.values())


def _weights(exported: torch.export.ExportedProgram, graph: Graph) -> dict[Node, Tensor]:
    """The graph's inputs before the rows, in its order, and what to give for them."""
    saved = {**exported.constants, **exported.state_dict}
    placeholders = (node for node in graph.nodes if node.op == "placeholder")
    return {
        node: saved[spec.target].detach()
        for node, spec in zip(placeholders, exported.graph_signature.input_specs, strict=True)
        if spec.kind in SAVED and spec.target is not None
    }


def _calls(graph: Graph, *targets: Any) -> list[Node]:
    return [node for node in graph.nodes if node.op == "call_function" and node.target in targets]


def _drop_what_does_nothing(graph: Graph) -> None:
    for node in _calls(graph, aten.dropout.default, aten.slice.Tensor):
        # Dropout while not training, and x[:], of which an export makes one for every leading dimension of an index.
        if not node.args[2] if node.target is aten.dropout.default else node.args[2:] == (0, sys.maxsize):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def _keep_channels_together(graph: Graph, weights: dict[Node, Tensor]) -> None:
    """A convolution whose weights are laid out so gives an output laid out so, which the next one takes as it is.
    Not where an operator may look at the layout, as a view does."""
    indifferent = {*_COMPUTED, *_VIEWED, aten.batch_norm.default, aten.adaptive_avg_pool2d.default, aten.mean.dim}
    if any(node.target not in indifferent for node in graph.nodes if node.op not in ("placeholder", "output")):
        return
    for weight in weights:
        users = list(weight.users)
        if users and all(user.target is aten.conv2d.default and user.args[1] is weight for user in users):
            weights[weight] = weights[weight].contiguous(memory_format=torch.channels_last)


def _transpose_once(graph: Graph, weights: dict[Node, Tensor]) -> None:
    """What linear does with rows and a bias is addmm with the transposed weight, a new view of it every time."""
    for weight in weights:
        users = list(weight.users)
        if users and all(_is_addmm(user, weight) for user in users):
            weights[weight] = weights[weight].t()
            for user in users:
                rows, _, bias = user.args
                user.target, user.args = aten.addmm.default, (bias, rows, weight)


def _is_addmm(node: Node, weight: Node) -> bool:
    if node.target is not aten.linear.default or len(node.args) != 3 or node.args[2] is None:
        return False
    rows, second, bias = node.args
    return second is weight and weight not in (rows, bias) and _meta(rows).dim() == 2


def _call_softmax_directly(graph: Graph) -> None:
    for node in _calls(graph, aten.softmax.int):
        if len(node.args) == 2 and not node.kwargs and _meta(node.args[0]).dtype == torch.float32:
            node.target, node.args = aten._softmax.default, (*node.args, False)


def _overwrite_what_is_used_up(graph: Graph) -> None:
    """Saves the memory of a result that nobody else looks at, and its way through the cache."""
    for node in _calls(graph, aten.relu.default, aten.clamp.default):
        source, *limits = node.all_input_nodes
        if limits or len(source.users) > 1 or not _is_new(source) or _meta(source).dtype != _meta(node).dtype:
            continue
        node.target = aten.relu_.default if node.target is aten.relu.default else aten.clamp_.default


def _own_the_output(graph: Graph) -> None:
    output = graph.output_node()
    [result] = output.all_input_nodes  # runtime.py has seen that it is one tensor
    if not _is_new(result):
        with graph.inserting_before(output):
            output.args = ((graph.call_function(aten.clone.default, (result,)),),)


def _is_new(node: Node) -> bool:
    """Whether its memory is its own. Those that overwrite were put here for operators of which it is."""
    return node.target in _COMPUTED or node.target in _IN_PLACE


def _meta(node: Any) -> Tensor:
    value: Tensor = node.meta["val"]
    return value
