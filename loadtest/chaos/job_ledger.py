"""Jobs that were asked for, and whether each of their rows was answered once: by what is in the log, what the results
say, and what the model says."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from loadtest.chaos.reconcile import Answer, Check, Question, Reckoning
from loadtest.jobs.client import ask, ndjson, rows, submit
from tests.servers import eventually

SIZES = (1, 2, 10, 100, 1000, 2048, 2049, 5000)
_AGAIN_SECONDS = 0.3
_TAKEN_SECONDS = 120  # at the latest: nothing is away for so long
_AT_ONCE = 20_000  # rows that may wait: so that jobs are asked for all the while, and end by and by
_PATIENCE_SECONDS = 2  # then another one is asked for though nothing gets on


class Asked(NamedTuple):
    seed: str
    rows: int


class Asking:
    """Asks for jobs of mixed sizes and priorities, as long as it is told to, whatever is broken meanwhile."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._seed = seed
        self._stop = threading.Event()
        self._failed: list[Exception] = []
        self.jobs: dict[str, Asked] = {}

    @contextmanager
    def going_on(self) -> Iterator[None]:
        asking = threading.Thread(target=self._ask)
        asking.start()
        try:
            yield
        finally:
            self._stop.set()
            asking.join()
        if self._failed:
            raise self._failed[0]

    def _ask(self) -> None:
        numbers = random.Random(self._seed)
        try:
            while not self._stop.is_set():
                asked = Asked(f"{self._seed}-{len(self.jobs)}", numbers.choice(SIZES))
                self.jobs[self._submit(asked, numbers.choice(("low", "normal", "high")))] = asked
                patience = time.monotonic() + _PATIENCE_SECONDS
                while self._unfinished_rows() > _AT_ONCE and time.monotonic() < patience and not self._stop.is_set():
                    self._stop.wait(_AGAIN_SECONDS)
        except Exception as error:  # noqa: BLE001  of this thread; told by the other
            self._failed.append(error)

    def _submit(self, asked: Asked, priority: str) -> str:
        """Again and again while it cannot be taken: its key says that it is the same one."""
        deadline = time.monotonic() + _TAKEN_SECONDS
        body = ndjson(asked.rows, asked.seed)
        while True:
            try:
                return submit(self._port, body, f"?priority={priority}", key=f"job-{asked.seed}")
            except (OSError, http.client.HTTPException, RuntimeError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(_AGAIN_SECONDS)

    def _unfinished_rows(self) -> int:
        try:
            jobs = [each for state in ("queued", "running") for each in _page(self._port, state)]
        except (OSError, http.client.HTTPException, RuntimeError):
            return 0  # asking for more is one way to see what happens to a stack that cannot tell
        return sum(each["rows"] - each["rows_done"] for each in jobs)


def _page(port: int, state: str) -> list[dict[str, Any]]:
    status, answer = ask(port, "GET", f"/jobs?state={state}&limit=1000")
    if status != 200:
        raise RuntimeError(f"{status}: {answer[:200]!r}")
    jobs: list[dict[str, Any]] = json.loads(answer)["jobs"]
    return jobs


def unfinished(port: int) -> int:
    """Jobs that have not ended. Raises RuntimeError, OSError: it cannot be said at the moment."""
    return sum(len(_page(port, state)) for state in ("queued", "running"))


def reckon(port: int, dsn: str, jobs: dict[str, Asked], check: Check) -> Reckoning:
    """Compares jobs that have ended with a log that had none but theirs. What is counted are rows."""
    reckoning = Reckoning(requests=sum(asked.rows for asked in jobs.values()))
    with psycopg.connect(dsn) as connection:
        known = 0
        for id, asked in jobs.items():
            wanted = list(rows(asked.rows, asked.seed))
            logged = connection.execute(_LOGGED, (id,)).fetchall()
            known += len(logged)
            answers = _results(port, id)
            reckoning.answered += len(answers)
            _compare(reckoning, id, wanted, dict(logged), answers)
            for wrong in check(_questions(wanted, answers)):
                reckoning.blame("wrong", wrong)
        [total] = connection.execute("SELECT count(*) FROM predictions").fetchone() or (0,)
        for _ in range(total - known):
            reckoning.blame("unasked", "a row belongs to no job that was asked for")
    return reckoning


# Of a job all rows have its time, and no two jobs here have the same.
_LOGGED = "SELECT p.id, input_data FROM predictions AS p JOIN jobs ON created_at = timestamp WHERE jobs.id = %s"


def _results(port: int, id: str) -> list[dict[str, Any]]:
    status, lines = ask(port, "GET", f"/jobs/{id}/results")
    if status != 200:
        raise RuntimeError(f"{status}: {lines[:200]!r}")
    return [json.loads(line) for line in lines.splitlines()]


def _compare(
    reckoning: Reckoning, id: str, wanted: list[list[float]], logged: dict[UUID, Any], answers: list[dict[str, Any]]
) -> None:
    times = [0] * len(wanted)
    for answer in answers:
        if "error" in answer or answer["row"] >= len(wanted):
            reckoning.blame("wrong", f"job {id}: {answer}")
            continue
        times[answer["row"]] += 1
        row = logged.pop(UUID(answer["id"]), None)
        if row != wanted[answer["row"]]:
            reckoning.blame("lost" if row is None else "altered", f"job {id}: {answer} is in the log as {row}")
    for index, count in enumerate(times):
        if count != 1:
            reckoning.blame("duplicated" if count else "lost", f"row {index} of job {id} was answered {count} times")
    for row in logged.values():
        reckoning.blame("duplicated", f"job {id}: {row} is in the log, and is no answer of it")


def _questions(wanted: list[list[float]], answers: list[dict[str, Any]]) -> list[Question]:
    return [
        Question(
            wanted[each["row"]],
            Answer(UUID(each["id"]), each["prediction"], each["confidence"], "penguins", "2", False, each.get("label")),
        )
        for each in answers
        if "error" not in each and each["row"] < len(wanted)
    ]


def longest_seconds(dsn: str, since: float) -> tuple[float, float]:
    """How long the slowest job took; and how long after `since`, in seconds since 1970, the last of those ended that
    were there by then."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT max(extract(epoch FROM finished_at - created_at)),"
            " coalesce(max(extract(epoch FROM finished_at) - %s) FILTER (WHERE created_at < to_timestamp(%s)), 0)"
            " FROM jobs",
            (since, since),
        ).fetchone() or (0, 0)
    return float(found[0]), max(float(found[1]), 0.0)


def states(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn) as connection:
        return dict(connection.execute("SELECT state, count(*) FROM jobs GROUP BY 1").fetchall())


def wait_until_all_ended(port: int, within_seconds: float) -> None:
    eventually(lambda: unfinished(port) == 0, within_seconds=within_seconds, because="all jobs have ended")
