"""A lowered program computes what the exported one does, whatever its graph looks like."""

from __future__ import annotations

import io
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from api.models.lowering import lower
from api.models.repository import Repository
from api.models.runtime import Program, load_exported
from api.settings import HERE

SHIPPED = Repository.open(HERE / "model_repository").versions


class Residual(nn.Module):
    """What comes before a relu is needed again after it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Tensor:
        before: Tensor = self.linear(rows)
        return torch.relu(before) + before


class ReluOfPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Tensor:
        whole = self.linear(rows)
        return torch.cat([torch.relu(whole[:, :2]), whole], dim=1)


class ReluOfRows(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return torch.relu(rows) - rows


class ClampOfIntegers(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return (rows.long() + 1).clamp(0.5, 2.5).float()


class ClampByTensor(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return (rows * 2).clamp(rows.min(), rows.mean())


class Tied(nn.Module):
    """One weight in three roles."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Tensor:
        weight = self.linear.weight
        return nn.functional.linear(self.linear(rows), weight, weight[0]) + weight.sum()


class InPlace(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        doubled = rows * 2
        part = doubled[:, :2]
        part += 1
        return torch.relu(doubled) - part.sum()


class NoGrad(nn.Module):
    """A region of its own in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            before = self.linear(rows)
        return torch.relu(before)


class Viewed(nn.Module):
    """A view that other layouts than the usual one do not allow."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, groups=groups)

    def forward(self, rows: Tensor) -> Tensor:
        pixels: Tensor = self.convolution(rows)
        return pixels.view(rows.shape[0], -1)


MODULES = {
    "residual": (Residual(), (4,)),
    "relu of a part": (ReluOfPart(), (4,)),
    "relu of the rows": (ReluOfRows(), (4,)),
    "clamp of integers": (ClampOfIntegers(), (4,)),
    "clamp by a tensor": (ClampByTensor(), (4,)),
    "tied weights": (Tied(), (4,)),
    "in place": (InPlace(), (4,)),
    "no_grad": (NoGrad(), (4,)),
    "identity": (nn.Identity(), (4,)),
    "dropout": (nn.Dropout(), (4,)),
    "no bias": (nn.Linear(4, 3, bias=False), (4,)),
    "sequences": (nn.Linear(4, 3), (5, 4)),
    "log_softmax": (nn.LogSoftmax(dim=-1), (4,)),
    "view of a convolution": (Viewed(), (2, 5, 5)),
    "grouped convolution": (nn.Sequential(Viewed(groups=2), nn.ReLU()), (2, 5, 5)),
    "convolutions": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten()),
        (2, 5, 5),
    ),
}


@cache
def exported(name: str) -> torch.export.ExportedProgram:
    """One of MODULES, as it comes from a file."""
    module, shape = MODULES[name]
    buffer = io.BytesIO()
    rows = {0: torch.export.Dim("rows", min=1)}
    torch.export.save(torch.export.export(module.eval(), (torch.randn(2, *shape),), dynamic_shapes=(rows,)), buffer)
    return load_exported(buffer.getvalue())


def both(program: torch.export.ExportedProgram, rows: Tensor, *, channels_last: bool) -> tuple[Tensor, Tensor]:
    """What the program says, and what its lowered form says."""
    forward, weights = lower(program, channels_last=channels_last)
    with torch.inference_mode():
        (lowered,) = forward(*weights, rows.clone())
        return program.module()(rows.clone()), lowered


@pytest.mark.parametrize("rows", [1, 3, 65])
@pytest.mark.parametrize("name", MODULES)
def test_it_computes_the_same(name: str, rows: int) -> None:
    program = exported(name)
    shape = MODULES[name][1]
    batch = torch.randn(rows, *shape)

    original, lowered = both(program, batch, channels_last=False)
    assert torch.equal(original, lowered)  # to the bit: the kernels are the same

    original, lowered = both(program, batch, channels_last=True)
    assert lowered == pytest.approx(original, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("version", SHIPPED.values(), ids=lambda version: f"{version.name}/{version.version}")
def test_the_shipped_ones_compute_the_same_to_the_bit(version: object) -> None:
    program = load_exported(version.artefact.read_bytes())  # type: ignore[attr-defined]
    rows = torch.rand(33, *version.input_shape) * 20  # type: ignore[attr-defined]

    original, lowered = both(program, rows, channels_last=False)

    assert torch.equal(original, lowered)


def test_no_operator_of_the_default_model_takes_the_long_way() -> None:
    forward, _ = lower(load_exported(SHIPPED["penguins", "2"].artefact.read_bytes()), channels_last=True)

    nodes = forward.__self__.graph.nodes  # type: ignore[attr-defined]
    assert not [node.target for node in nodes if isinstance(node.target, torch._ops.OpOverload)]


def test_the_program_is_left_as_it_is() -> None:
    program = exported("convolutions")
    before = program.graph_module.code
    layout = [weight.stride() for weight in program.state_dict.values()]

    lower(program, channels_last=True)

    assert program.graph_module.code == before
    assert [weight.stride() for weight in program.state_dict.values()] == layout


@pytest.mark.parametrize("name", ["identity", "dropout", "view of a convolution"])
def test_an_output_lies_in_memory_of_its_own(name: str) -> None:
    forward, weights = lower(exported(name), channels_last=True)
    rows = torch.ones(2, *MODULES[name][1])

    with torch.inference_mode():
        (output,) = forward(*weights, rows)
        before = output.clone()
        rows.zero_()

    assert torch.equal(output, before)


def test_answers_stay_when_the_next_batch_is_staged() -> None:
    version = SHIPPED["penguins", "2"]
    program = Program.load(version)
    program.warm_up(max_rows=4)
    row = bytes(12)

    first = program.run_staged(program.stage([row]))
    answer = first.tolist()
    for _ in range(3):
        program.run_staged(program.stage([b"\x00\x00\x80\x3f" * 3] * 4))

    assert first.tolist() == answer
