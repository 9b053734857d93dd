"""A thousand jobs of mixed sizes while worker, broker and Postgres are killed: every row of each is answered once."""

from __future__ import annotations

import http.client
import random
import threading
import time
from typing import NamedTuple

import psycopg

from loadtest.jobs.client import ended, ndjson, submit
from loadtest.jobs.stack import Running

_SIZES = (1, 2, 10, 100, 1000, 2048, 2049, 5000)
_VICTIMS = ("worker", "redis-server", "postgres")
_PAUSE_SECONDS = 15  # the launcher starts again what ran for ten


class Outcome(NamedTuple):
    jobs: int
    rows: int
    killed: int
    missing: int
    """Rows without a prediction."""
    surplus: int
    """Predictions that belong to no row."""
    seconds: float


def run(stack: Running, jobs: int, seed: int = 7) -> Outcome:
    numbers = random.Random(seed)
    begun = time.monotonic()
    done = threading.Event()
    killed: list[str] = []

    def kill() -> None:
        while not done.wait(_PAUSE_SECONDS):
            name = _VICTIMS[len(killed) % len(_VICTIMS)]
            stack.process(name).kill()
            killed.append(name)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        sizes = {}
        for number in range(jobs):
            size = numbers.choice(_SIZES)
            sizes[_submit(stack.port, ndjson(size, f"{seed} {number}"), number)] = size
        for id in sizes:
            state = ended(stack.port, id)
            if state["state"] != "done":
                raise RuntimeError(f"a job is not done: {state}")
    finally:
        done.set()
        killer.join()
    missing, surplus = _count(stack, sizes)
    return Outcome(jobs, sum(sizes.values()), len(killed), missing, surplus, time.monotonic() - begun)


def _submit(port: int, body: bytes, number: int) -> str:
    """With a key, so that it may be sent again while Postgres is away."""
    priority = ("low", "normal", "high")[number % 3]
    while True:
        try:
            return submit(port, body, f"?priority={priority}")
        except (OSError, http.client.HTTPException, RuntimeError):
            time.sleep(0.5)


def _count(stack: Running, sizes: dict[str, int]) -> tuple[int, int]:
    missing = surplus = 0
    with psycopg.connect(stack.dsn) as connection:
        answered: dict[str, int] = dict(
            connection.execute(
                "SELECT jobs.id::text, count(*) FROM jobs JOIN predictions ON timestamp = created_at"
                " AND request_id = jobs.request_id GROUP BY 1"
            ).fetchall()
        )
        [total] = connection.execute("SELECT count(*) FROM predictions").fetchone() or (0,)
    for id, size in sizes.items():
        missing += max(size - answered.get(id, 0), 0)
        surplus += max(answered.get(id, 0) - size, 0)
    return missing, surplus + max(total - sum(answered.values()), 0)
