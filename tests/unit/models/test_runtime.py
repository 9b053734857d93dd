from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from api.errors import ModelFailed
from api.models import runtime
from api.models.export import export
from api.models.repository import Repository
from api.models.runtime import InvalidArtefact, Program, use_threads
from api.models.staging import Outputs, Staging
from api.settings import HERE
from tests.unit.models.conftest import Add

ROW = np.array([[1, 2]], dtype=np.float32)


def exported(module: nn.Module, example: Any = (0.0, 0.0), **options: Any) -> bytes:
    return export(module, np.array(example, dtype=np.float32), **options)


class Give(nn.Module):
    """Gives the same value for every row, whatever it is sent."""

    value: Tensor

    def __init__(self, *value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(value))

    def forward(self, rows: Tensor) -> Tensor:
        return self.value.expand(rows.shape[0], -1)


class Inverse(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return 1 / rows


class Counting(nn.Module):
    """Answers otherwise each time."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(2))

    def forward(self, rows: Tensor) -> Tensor:
        self.count.view(2)[:1].add_(1)
        return rows + self.count


class Centring(nn.Module):
    """Overwrites the rows it is sent."""

    def forward(self, rows: Tensor) -> Tensor:
        rows -= 1
        return rows * 2


class Table(nn.Module):
    """Looks its numbers up. Not all of them are there."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor([0.0, 2, 4]))

    def forward(self, rows: Tensor) -> Tensor:
        return self.table[rows.long()]


class Wide(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows.double()


class Two(nn.Module):
    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows, rows


class Transposed(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return torch.zeros(2, 2)


def test_a_program_runs(add: Add, double: bytes) -> None:
    program = Program.load(add(double))

    outputs = program.run(ROW.copy())

    assert outputs.dtype == np.float32
    assert outputs.tolist() == [[2, 4]]
    assert program.warm_up(max_rows=64) > 0


def test_a_program_may_overwrite_what_it_is_sent_without_harm(add: Add) -> None:
    program = Program.load(add(exported(Centring())))

    program.warm_up(max_rows=3)

    assert program.run(ROW.copy()).tolist() == [[0, 2]]


def test_the_broken_artefact_is_refused_in_one_line(add: Add, double: bytes) -> None:
    for version, artefact in enumerate((b"", b"rubbish", double[:-1], double[: len(double) // 2])):
        with pytest.raises(InvalidArtefact) as caught:
            Program.load(add(artefact, version=str(version)))
        assert "\n" not in str(caught.value)


def test_an_artefact_that_changed_after_it_was_verified_is_refused(add: Add, double: bytes) -> None:
    version = add(double)
    version.artefact.write_bytes(exported(Give(1, 1)))

    with pytest.raises(InvalidArtefact, match="has changed"):
        Program.load(version)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"input": {"name": "rows", "shape": [3]}, "example": [1, 2, 3]},
            r"input is \[rows, 2\], the manifest says \[rows, 3\]",
        ),
        (
            {"input": {"name": "rows", "shape": [2, 1]}, "example": [[1], [2]]},
            r"input is \[rows, 2\], the manifest says \[rows, 2, 1\]",
        ),
        ({"outputs": [{"name": "a"}]}, r"output is \[rows, 2\], the manifest says \[rows, 1\]"),
    ],
)
def test_a_manifest_that_lies_about_a_shape_is_refused(
    add: Add, double: bytes, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidArtefact, match=complaint):
        Program.load(add(double, **changes))


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (Wide(), "output is float64, expected float32"),
        (Two(), "gives 2 outputs, expected one tensor"),
        (Transposed(), "gives 2 rows for"),
        (Counting(), "changes its own state"),
    ],
)
def test_a_program_that_is_not_one_of_rows_to_rows_is_refused(add: Add, module: nn.Module, complaint: str) -> None:
    with pytest.raises(InvalidArtefact, match=complaint):
        Program.load(add(exported(module)))


def test_a_limit_on_rows_must_be_in_the_manifest(add: Add) -> None:
    limited = exported(torch.nn.Identity(), max_batch_rows=8)

    with pytest.raises(InvalidArtefact, match="takes at most 8 rows at once"):
        Program.load(add(limited, version="1"))
    with pytest.raises(InvalidArtefact, match="takes at most 8 rows at once"):
        Program.load(add(limited, version="2", version_fields={"max_batch_rows": 9}))
    Program.load(add(limited, version="3", version_fields={"max_batch_rows": 8}))


def test_an_answer_that_is_none_fails(add: Add) -> None:
    program = Program.load(add(exported(Inverse())))
    assert program.run(ROW.copy()).tolist() == [[1, 0.5]]

    with pytest.raises(ModelFailed, match="double/1 gave NaN or infinity"):
        program.run(np.array([[1, 1], [0, 1]], dtype=np.float32))


@pytest.mark.parametrize("value", [(0.5, 0.6), (1.5, -0.5), (float("nan"), 1), (float("inf"), 0)])
def test_probabilities_sum_to_1(add: Add, value: tuple[float, ...]) -> None:
    program = Program.load(add(exported(Give(*value)), task="classification", outputs=None, classes=["a", "b"]))

    with pytest.raises(ModelFailed, match=r"double/1 gave (no probabilities|NaN)"):
        program.run(ROW.copy())


def test_whatever_an_operator_raises_is_a_failure_of_the_model(add: Add) -> None:
    program = Program.load(add(exported(Table())))
    assert program.run(ROW.copy()).tolist() == [[2, 4]]

    with pytest.raises(ModelFailed, match="double/1 failed") as caught:
        program.run(np.array([[1, 9]], dtype=np.float32))
    assert isinstance(caught.value.__cause__, IndexError)
    assert program.run(ROW.copy()).tolist() == [[2, 4]]


@pytest.mark.parametrize("rows", [np.zeros((1, 2)), np.zeros((1, 3), np.float32), np.zeros((1, 2, 1), np.float32)])
def test_what_are_no_rows_of_the_model_is_not_run(add: Add, double: bytes, rows: Any) -> None:
    with pytest.raises(ModelFailed, match="double/1 was given"):
        Program.load(add(double)).run(rows)


def test_a_gpu_that_is_not_there_fails_clearly(add: Add, double: bytes) -> None:
    program = Program.load(add(double), device="cuda")

    if torch.cuda.is_available():
        assert program.warm_up(max_rows=2) > 0
        assert program.run(ROW.copy()).tolist() == [[2, 4]]
    else:
        with pytest.raises(ModelFailed, match="double/1 cannot run on cuda"):
            program.warm_up(max_rows=2)


class Disturbed(Program):
    """On a machine that has other things to do: three of four runs are held up."""

    runs = 0

    def run_staged(self, staged: Staging) -> Outputs:
        self.runs += 1
        if self.runs % 4:
            time.sleep(0.002)
        return super().run_staged(staged)


def test_load_on_the_machine_does_not_make_a_cheap_model_seem_dear(add: Add, double: bytes) -> None:
    program = Disturbed.load(add(double))

    assert program.warm_up(max_rows=4) < 0.0005


def test_a_batch_is_staged_while_another_one_runs(add: Add, double: bytes) -> None:
    program = Program.load(add(double))
    program.warm_up(max_rows=2)
    begun = [
        program.stage([np.array([n, -n], dtype=np.float32).tobytes()] * 2) for n in range(5)
    ]  # more than there is room for

    assert len({id(staging) for staging in begun}) == 5
    assert [program.run_staged(staging)[0].tolist() for staging in begun] == [[2 * n, -2 * n] for n in range(5)]


def test_room_for_batches_is_made_once(add: Add, double: bytes) -> None:
    program = Program.load(add(double))
    program.warm_up(max_rows=4)

    used = set()
    for _ in range(10):
        first, second = program.stage([bytes(8)] * 4), program.stage([bytes(8)])
        used |= {id(first), id(second)}
        program.run_staged(first)
        program.run_staged(second)

    assert len(used) == 2


def test_a_batch_larger_than_the_room_for_it_gets_its_own(add: Add, double: bytes) -> None:
    program = Program.load(add(double))
    program.warm_up(max_rows=1)

    for rows in (1, 100, 1, 7):
        assert (program.run(np.ones((rows, 2), dtype=np.float32)) == 2).all()


def run_on_one_thread() -> None:
    """Exits with what a run in a thread of its own costs in CPU time: the process's by the thread's."""
    program = Program.load(Repository.open(HERE / "model_repository").resolve("digits", "1"))
    use_threads(1, workers=1)
    ratios = []

    def work() -> None:
        program.warm_up(max_rows=512)
        rows = np.ones((512, 8, 8), dtype=np.float32)
        process, thread = time.process_time(), time.thread_time()
        for _ in range(20):
            program.run(rows)
        ratios.append((time.process_time() - process) / (time.thread_time() - thread))

    runner = threading.Thread(target=work)
    runner.start()
    runner.join()
    sys.exit(None if ratios[0] < 1.2 else f"the process took {ratios[0]:.2f} times what the thread took")


def run_here(function: str) -> subprocess.CompletedProcess[str]:
    """A function of this module in a process of its own, where no test has run a model yet."""
    command = [sys.executable, "-c", f"import {__name__} as it; it.{function}()"]
    return subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=60, check=False)


def test_one_thread_is_one_thread_wherever_a_model_runs() -> None:
    result = run_here("run_on_one_thread")

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("quota", "workers", "threads"), [(8, 2, 4), (8, 3, 2), (1.5, 1, 1), (0.5, 2, 1)])
def test_threads_follow_the_quota_and_not_the_cores(
    quota: float, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "cpus", lambda: quota)

    assert use_threads(0, workers) == torch.get_num_threads() == threads


def test_threads_are_shared_among_the_workers() -> None:
    assert use_threads(3, workers=8) == torch.get_num_threads() == 3
    assert use_threads(0, workers=10_000) == torch.get_num_threads() == 1
    assert 1 <= use_threads(0, workers=1) <= len(os.sched_getaffinity(0))


def serve(programs: list[Program]) -> None:
    use_threads(2, workers=1)
    for program in programs:
        program.warm_up(max_rows=256)
        # The batcher calls a dear model from a thread of its own.
        thread = threading.Thread(target=program.warm_up, args=(256,))
        thread.start()
        thread.join()


def load_fork_and_serve() -> None:
    repository = Repository.open(HERE / "model_repository")
    programs = [Program.load(version) for version in repository.versions.values()]
    child = multiprocessing.get_context("fork").Process(target=serve, args=(programs,))
    child.start()
    child.join(30)
    hangs = child.is_alive()
    child.kill()
    sys.exit("the child hangs" if hangs else child.exitcode)


def test_programs_loaded_before_a_fork_run_after_it_on_several_threads() -> None:
    # Other tests have run models in this process, after which no child of it may.
    result = run_here("load_fork_and_serve")

    assert result.returncode == 0, result.stderr


def test_what_is_not_there_is_refused(add: Add, double: bytes, tmp_path: Path) -> None:
    version = add(double)
    version.artefact.unlink()

    with pytest.raises(InvalidArtefact, match=r"model\.pt2: No such file"):
        Program.load(version)
