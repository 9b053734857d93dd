"""The model-only limit: a loop that calls the runtime with the best batch size on all cores, without HTTP."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from loadtest.bench.wrk import CannotMeasure, Load

BATCH_ROWS = (1, 8, 16, 32, 64, 128, 256, 512)
_TRIAL_SECONDS = 0.3
_WARM_UP_RUNS = 3
_START_SECONDS = 120


class Limit:
    """Of one model. Each measurement runs in a process of its own, as torch's threads are those of a process."""

    def __init__(self, model: str, repository: Path | None = None) -> None:
        """model: with or without a version, as in `digits/1`. repository: None for the shipped models."""
        self._model = model
        self._repository = repository
        self._batch_rows = 0

    def measure(self, seconds: float) -> Load:
        """The requests of the result are rows. The first time it tries which batch size is best.

        Raises:
            CannotMeasure: it failed.
        """
        if not self._batch_rows:
            self._batch_rows = self._ask("try")["batch_rows"]
        found = self._ask("run", "--batch-rows", str(self._batch_rows), "--seconds", str(seconds))
        return Load(requests=found["rows"], seconds=found["seconds"])

    def _ask(self, *arguments: str) -> dict[str, int]:
        command = [sys.executable, "-m", "loadtest.bench.limit", self._model, *arguments]
        if self._repository:
            command += ["--repository", str(self._repository)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own command
        if ended.returncode:
            raise CannotMeasure(f"{self._model} by itself failed: {ended.stderr.strip().splitlines()[-1:]}")
        found: dict[str, int] = json.loads(ended.stdout)
        return found


# --- in the other process ---------------------------------------------------------------------------------------------
class Loop:
    """The runtime and a row for it."""

    def __init__(self, model: str, repository: Path | None) -> None:
        # Here, as only the process in which it runs is to have torch.
        import numpy as np

        from api.models.repository import Repository
        from api.models.runtime import Program, use_threads
        from api.settings import HERE

        version = Repository.open(repository or HERE / "model_repository").resolve(*model.split("/"))
        use_threads(1, 1)
        program = Program.load(version)
        program.warm_up(1)  # takes it to the device that it is served from; `run` warms up for its own batch size
        self._run = program.run
        self._row = np.array([version.manifest.example], dtype=np.float32)

    def run(self, batch_rows: int, seconds: float, begin: Callable[[], object] = lambda: None) -> tuple[int, float]:
        """Rows answered, and the time that took. begin: called after the warm-up."""
        rows = self._row.repeat(batch_rows, axis=0)
        begun = time.perf_counter()
        for _ in range(_WARM_UP_RUNS):
            self._run(rows)
            if time.perf_counter() > begun + _TRIAL_SECONDS:
                break
        begin()
        begun, runs = time.perf_counter(), 0
        while (now := time.perf_counter()) < begun + seconds:
            self._run(rows)
            runs += 1
        return runs * batch_rows, now - begun


def best_batch_rows(loop: Loop) -> int:
    """By trying each on one core, as long as a run takes less than a second: from there on it makes no difference."""
    rates = {}
    for batch_rows in BATCH_ROWS:
        rows, taken = loop.run(batch_rows, _TRIAL_SECONDS)
        rates[batch_rows] = rows / taken
        if batch_rows / rates[batch_rows] > 1:
            break
    return max(rates, key=lambda batch_rows: rates[batch_rows])


def rows_in(model: str, repository: Path | None, batch_rows: int, seconds: float) -> tuple[int, float]:
    """Rows answered, and the time that took: one process a core, with one thread each. No other split is faster for
    models so small, and it is how the workers are set up."""
    workers = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")  # torch must not run before a fork
    begin = context.Barrier(workers, timeout=_START_SECONDS)  # else one that fails leaves the others waiting
    results = context.SimpleQueue()
    arguments = (model, repository, batch_rows, seconds, begin, results)
    processes = [context.Process(target=_work, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise CannotMeasure(f"the model-only loop of {model} exited with status {process.exitcode}")
    runs = [results.get() for _ in processes]
    return sum(rows for rows, _ in runs), max(taken for _, taken in runs)


def _work(
    model: str,
    repository: Path | None,
    batch_rows: int,
    seconds: float,
    begin: Barrier,
    results: SimpleQueue[tuple[int, float]],
) -> None:
    results.put(Loop(model, repository).run(batch_rows, seconds, begin.wait))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.limit", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("do", choices=("try", "run"))
    parser.add_argument("--repository", type=Path)
    parser.add_argument("--batch-rows", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1)
    options = parser.parse_args()
    if options.do == "try":
        found: dict[str, float] = {"batch_rows": best_batch_rows(Loop(options.model, options.repository))}
    else:
        rows, seconds = rows_in(options.model, options.repository, options.batch_rows, options.seconds)
        found = {"rows": rows, "seconds": seconds}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
