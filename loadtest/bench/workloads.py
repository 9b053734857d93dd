"""What is sent. The bodies of `hit` and `zipf` are made here; those of `miss` in wrk.lua, for no file holds them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadtest.payloads import MODELS, ZIPF_ROWS, ZIPF_S, batch, pool, single

Model = Literal["penguins", "digits"]
Workload = Literal["hit", "miss", "zipf"]
WORKLOADS: tuple[Workload, ...] = ("hit", "miss", "zipf")
_RUNS = 2**14  # that wrk.lua can tell apart


@dataclass(frozen=True, slots=True)
class Case:
    """One load. rows: in a request; 0 for a single row on /predict. connections: of the load generator."""

    model: Model
    workload: Workload
    connections: int
    rows: int = 0

    @property
    def path(self) -> str:
        return MODELS[self.model].path + ("/batch" if self.rows else "")

    @property
    def name(self) -> str:
        rows = f" x{self.rows}" if self.rows else ""
        return f"{self.model} {self.workload}{rows} @{self.connections}"


class Bodies:
    """Hands each run of the load generator its part of the bodies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = itertools.count()

    def arguments(self, case: Case) -> list[str]:
        """For wrk.lua. A `miss` gets a number that no run before it has had.

        Raises:
            ValueError: more runs than there are numbers.
        """
        run = next(self._runs)
        if run >= _RUNS:
            raise ValueError(f"expected at most {_RUNS} runs of the load generator")
        if case.workload == "miss":
            return ["miss", case.model, str(case.rows), str(run)]
        file = self._file(case)
        return ["hit", str(file)] if case.workload == "hit" else ["zipf", str(file), str(ZIPF_S), str(run)]

    def sample(self, case: Case) -> bytes:
        """A body of that kind, to try a subject with."""
        return next(_bodies(case.model, case.rows, 1))

    def _file(self, case: Case) -> Path:
        file = self._folder / f"{case.model}-{case.workload}-{case.rows}.txt"
        if not file.exists():
            count = 1 if case.workload == "hit" else ZIPF_ROWS
            file.write_bytes(b"".join(body + b"\n" for body in _bodies(case.model, case.rows, count)))
        return file


def _bodies(model: str, rows: int, count: int) -> Iterator[bytes]:
    drawn: Sequence[bytes] = pool(MODELS[model], count * max(rows, 1))
    if not rows:
        yield from map(single, drawn)
    else:
        for start in range(0, count * rows, rows):
            yield batch(drawn[start : start + rows])
