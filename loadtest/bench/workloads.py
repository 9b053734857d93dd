"""What is sent. The bodies of `hit` and `zipf` are made here; those of `miss` in wrk.lua, for no file holds them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadtest.payloads import MODELS, ZIPF_ROWS, ZIPF_S, Model, batch, pool, single

Workload = Literal["hit", "miss", "zipf"]
WORKLOADS: tuple[Workload, ...] = ("hit", "miss", "zipf")
_RUNS = 2**14  # that wrk.lua can tell apart


@dataclass(frozen=True, slots=True)
class Case:
    """One load.

    model: a shipped one, or one of generated.py; with its version, as in `digits/1`, where it is not the default one.
    rows: in a request; 0 for a single row on /predict. connections: of the load generator. everyone: whether all models
    that a subject serves are asked in turn.
    """

    model: str
    workload: Workload
    connections: int
    rows: int = 0
    everyone: bool = False

    def paths(self, served: Sequence[str] = ()) -> list[str]:
        """served: by the subject, if it is not the shipped models."""
        end = "/batch" if self.rows else ""
        if self.model in MODELS:
            return [MODELS[self.model].path + end]
        named = served if self.everyone else [self.model.replace("/", "/versions/")]
        return [f"/models/{name}/predict{end}" for name in named]

    @property
    def kind(self) -> Model:
        """The shipped model whose rows it takes."""
        return MODELS[re.split("[-/]", self.model)[0]]

    @property
    def name(self) -> str:
        rows = f" x{self.rows}" if self.rows else ""
        model = "all" if self.everyone else self.model
        return f"{model} {self.workload}{rows} @{self.connections}"


class Bodies:
    """Hands each run of the load generator its part of the bodies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = itertools.count()

    def arguments(self, case: Case) -> list[str]:
        """For wrk.lua, after the paths. A `miss` gets a number that no run before it has had.

        Raises:
            ValueError: more runs than there are numbers.
        """
        run = next(self._runs)
        if run >= _RUNS:
            raise ValueError(f"expected at most {_RUNS} runs of the load generator")
        if case.workload == "miss":
            return ["miss", case.kind.name, str(case.rows), str(run)]
        file = self._file(case)
        return ["hit", str(file)] if case.workload == "hit" else ["zipf", str(file), str(ZIPF_S), str(run)]

    def each(self, case: Case) -> list[str]:
        """All bodies of a zipf, one after the other."""
        return ["each", str(self._file(case))]

    def sample(self, case: Case) -> bytes:
        """A body of that kind, to try a subject with."""
        return next(_bodies(case.kind, case.rows, 1))

    def _file(self, case: Case) -> Path:
        file = self._folder / f"{case.kind.name}-{case.workload}-{case.rows}.txt"
        if not file.exists():
            count = 1 if case.workload == "hit" else ZIPF_ROWS
            file.write_bytes(b"".join(body + b"\n" for body in _bodies(case.kind, case.rows, count)))
        return file


def _bodies(model: Model, rows: int, count: int) -> Iterator[bytes]:
    drawn: Sequence[bytes] = pool(model, count * max(rows, 1))
    if not rows:
        yield from map(single, drawn)
    else:
        for start in range(0, count * rows, rows):
            yield batch(drawn[start : start + rows])
