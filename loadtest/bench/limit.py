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

from loadtest.bench.wrk import CannotMeasure, Load

BATCH_ROWS = (1, 8, 16, 32, 64, 128, 256, 512)
_TRIAL_SECONDS = 0.3


def measure(model: str, seconds: int) -> Load:
    """In a process of its own, as torch's threads are those of a process. The requests of the result are rows.

    Raises:
        CannotMeasure: it failed.
    """
    command = [sys.executable, "-m", "loadtest.bench.limit", model, str(seconds)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own command
    if ended.returncode:
        raise CannotMeasure(f"the model-only limit of {model} failed: {ended.stderr.strip().splitlines()[-1:]}")
    rows, taken = json.loads(ended.stdout)
    return Load(rows, taken, 0.0, 0.0, 0.0, {})


def rows_in(model: str, batch_rows: int, seconds: float) -> tuple[int, float]:
    """Rows answered, and the time that took: one process a core, with one thread each. No other split is faster for
    models so small, and it is how the workers are set up."""
    workers = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")  # torch must not run before a fork
    begin = context.Barrier(workers)
    results = context.SimpleQueue()
    processes = [
        context.Process(target=_work, args=(model, batch_rows, seconds, begin, results)) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise CannotMeasure(f"the model-only loop of {model} exited with status {process.exitcode}")
    runs = [results.get() for _ in processes]
    return sum(rows for rows, _ in runs), max(taken for _, taken in runs)


def best_batch_rows(loop: Loop) -> int:
    """By trying each on one core."""
    rates = {}
    for batch_rows in BATCH_ROWS:
        rows, taken = loop.run(batch_rows, _TRIAL_SECONDS)
        rates[batch_rows] = rows / taken
    return max(rates, key=lambda batch_rows: rates[batch_rows])


class Loop:
    """The runtime and a row for it."""

    def __init__(self, model: str) -> None:
        # Here, as only the process in which it runs is to have torch.
        import numpy as np

        from api.models.repository import Repository
        from api.models.runtime import Program, use_threads
        from api.settings import HERE

        version = Repository.open(HERE / "model_repository").resolve(model)
        self._run = Program.load(version).run
        self._row = np.array([version.manifest.example], dtype=np.float32)
        use_threads(1, 1)

    def run(self, batch_rows: int, seconds: float, begin: Callable[[], object] = lambda: None) -> tuple[int, float]:
        """Rows answered, and the time that took. begin: called after the warm-up."""
        rows = self._row.repeat(batch_rows, axis=0)
        for _ in range(3):
            self._run(rows)
        begin()
        begun, runs = time.perf_counter(), 0
        while (now := time.perf_counter()) < begun + seconds:
            self._run(rows)
            runs += 1
        return runs * batch_rows, now - begun


def _work(model: str, batch_rows: int, seconds: float, begin: Barrier, results: SimpleQueue[tuple[int, float]]) -> None:
    results.put(Loop(model).run(batch_rows, seconds, begin.wait))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.limit", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    print(json.dumps(rows_in(options.model, best_batch_rows(Loop(options.model)), options.seconds)))


if __name__ == "__main__":
    main()
