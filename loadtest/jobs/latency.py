"""p99 of single predictions, new rows at a steady pace, with nothing beside them and with a job beside them."""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time

import psycopg

from loadtest.bench.fill import write_ahead_log
from loadtest.jobs.client import ask, job, ndjson, rows, submit
from loadtest.jobs.stack import Running

_CLIENTS = 8
_SEGMENTS = 64  # of the write-ahead log, 16 MB each: what the jobs of some rounds write
_SETTLE_SECONDS = 1  # not counted: connections are opened, and a worker takes 0.1 s to see that predictions come


def prepare(stack: Running) -> None:
    """Makes Postgres one that has had jobs before."""
    with psycopg.connect(stack.dsn, autocommit=True) as connection:
        write_ahead_log(connection, _SEGMENTS)


def alone(stack: Running, seconds: float, per_second: float) -> float:
    return _p99(stack.port, seconds, per_second)


def beside_a_job(stack: Running, seconds: float, per_second: float) -> float:
    """The job runs before the first request is sent and after the last."""
    id = submit(stack.port, ndjson(1_000_000, f"beside {time.time_ns()}"), "?priority=low")
    while not job(stack.port, id)["rows_done"]:
        time.sleep(0.1)
    p99 = _p99(stack.port, seconds, per_second)
    state = job(stack.port, id)
    if state["state"] != "running":
        raise RuntimeError(f"the job was over before the measurement: {state}")
    ask(stack.port, "DELETE", f"/jobs/{id}")
    return p99


def _p99(port: int, seconds: float, per_second: float) -> float:
    """In seconds. Each request is sent when it is due, late ones at once, and timed from when it was due: a server that
    stalls does not get fewer requests for it (no coordinated omission)."""
    taken: list[float] = []
    ended: list[int] = []
    lock = threading.Lock()
    begun = time.monotonic() + 0.2
    count = int((_SETTLE_SECONDS + seconds) * per_second / _CLIENTS)  # of each client

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        mine = []
        for index, row in enumerate(rows(count, f"{time.time_ns()} {number}")):
            due = begun + (index * _CLIENTS + number) / per_second
            time.sleep(max(0, due - time.monotonic()))
            connection.request("POST", "/predict", json.dumps({"features": row}), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"a prediction was answered with {answer.status}")
            if due >= begun + _SETTLE_SECONDS:
                mine.append(time.monotonic() - due)
        with lock:
            taken.extend(mine)
            ended.append(number)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(ended) < _CLIENTS:
        raise RuntimeError("predictions failed")
    return statistics.quantiles(taken, n=100)[98]
