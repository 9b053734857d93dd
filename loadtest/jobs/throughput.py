"""Rows a second of a job, and of the same predictor and durable log in a loop: no HTTP, no queue, no chunks."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from loadtest.jobs.client import ended, ndjson, rows, submit
from loadtest.jobs.stack import Running

BATCH_ROWS = 512
_IN_FLIGHT = 2  # as many as a worker has lanes: one computes while the other is committed


def of_job(stack: Running, count: int) -> float:
    """From the first chunk that was begun to the last that was committed, with one worker."""
    done = ended(stack.port, submit(stack.port, ndjson(count, f"job {time.time_ns()}")))
    if done["state"] != "done" or done["rows_done"] != count:
        raise RuntimeError(f"the job was not done: {done}")
    return float(done["rows_per_second"])


def of_loop(stack: Running, count: int) -> float:
    """In a process of its own, over the same stores."""
    command = [sys.executable, "-m", "loadtest.jobs.throughput", stack.dsn, stack.redis_url, str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603


async def _loop(dsn: str, redis_url: str, count: int) -> float:
    from api import lifespan
    from api.app import load_programs
    from api.models.repository import Repository
    from api.predictor import Caller
    from api.rows import RowDecoder
    from api.settings import Settings

    settings = Settings(postgres_dsn=dsn, redis_url=redis_url, spool_dir=Path("/nonexistent"))
    repository = Repository.open(settings.model_repository)
    async with lifespan.open_replica(settings, repository, load_programs(repository, "cpu")) as state:
        replica = state["replica"]
        served = replica.resolve(None, None)
        decoder = RowDecoder((3,), max_rows=BATCH_ROWS)
        texts = [f"[{a},{b},{c}]" for a, b, c in rows(count, f"loop {time.time_ns()}")]
        # Decoded before the clock starts: what a loop in somebody's program would have as arrays.
        batches = iter(
            [
                decoder.many(f'{{"instances":[{",".join(texts[at : at + BATCH_ROWS])}]}}'.encode())
                for at in range(0, count, BATCH_ROWS)
            ]
        )

        async def lane() -> None:
            for batch in batches:
                await replica.predictor.predict(
                    served, batch, Caller("loop", time.time_ns() // 1_000_000, os.urandom(16))
                )

        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # as workers and replicas have it
        begun = time.monotonic()
        await asyncio.gather(*(lane() for _ in range(_IN_FLIGHT)))
        return count / (time.monotonic() - begun)


if __name__ == "__main__":
    import uvloop

    logging.disable()
    _, dsn, redis_url, count = sys.argv
    print(uvloop.run(_loop(dsn, redis_url, int(count))))
