"""What the load generator says, and what it sends: the real one, against a server that only listens."""

from __future__ import annotations

import itertools
import json
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from loadtest.bench import wrk
from loadtest.bench.workloads import Bodies, Case, Workload
from loadtest.payloads import ZIPF_ROWS, zipf

OUTPUT = """Running 1s test @ http://127.0.0.1:8080/predict
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.72ms  639.30us  13.81ms   87.06%
  8129 requests in 1.10s, 2.16MB read
Requests/sec:   7389.00
{"requests":8129,"seconds":1.100000,"mean_seconds":0.001900,"p50_seconds":0.001700,"p99_seconds":0.004000,\
"max_seconds":0.013810,"errors":{"connect":0,"read":0,"write":0,"status":3,"timeout":1}}
"""


def test_its_last_line_is_what_counts() -> None:
    load = wrk.read(OUTPUT)

    assert load.requests_per_second == pytest.approx(7390)
    assert (load.p50_seconds, load.p99_seconds, load.failures) == (0.0017, 0.004, 4)


def test_a_run_without_that_line_measured_nothing() -> None:
    with pytest.raises(wrk.CannotMeasure, match="expected a line of JSON"):
        wrk.read("unable to connect to 127.0.0.1:8080 Connection refused")


def test_its_absence_is_one_line_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(wrk.CannotMeasure, match=r"apt-get install wrk"):
        wrk.find()


class Listener(socketserver.StreamRequestHandler):
    """Keeps every path and body, answers 200 to /predict and 404 to anything else, when `wait` returns."""

    paths: ClassVar[list[str]] = []
    bodies: ClassVar[list[bytes]] = []
    wait: ClassVar[Callable[[], object]]

    def handle(self) -> None:
        while line := self.rfile.readline():
            length = 0
            while (header := self.rfile.readline()) not in (b"\r\n", b""):
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.bodies.append(self.rfile.read(length))
            self.paths.append(line.split()[1].decode())
            type(self).wait()
            status = b"200 OK" if b"/predict" in line else b"404 Not Found"
            self.wfile.write(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n{}" % status)


@contextmanager
def listening(wait: Callable[[], object] = lambda: None) -> Iterator[tuple[str, list[bytes]]]:
    Listener.paths.clear()
    Listener.bodies.clear()
    Listener.wait = staticmethod(wait)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Listener) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", Listener.bodies
        finally:
            server.shutdown()
            thread.join()


def sent(cases: list[Case], folder: Path, threads: int = 1) -> list[bytes]:
    """The bodies of one run of each, a second long."""
    bodies = Bodies(folder)
    with listening() as (url, heard):
        for case in cases:
            arguments = [",".join(case.paths()), *bodies.arguments(case)]
            load = wrk.run(url, arguments, connections=case.connections, seconds=1, threads=threads)
            assert load.failures == 0
            assert load.requests > 100
        return list(heard)


@pytest.mark.parametrize(("model", "shape"), [("penguins", (3,)), ("digits", (8, 8))])
def test_no_two_bodies_of_a_miss_are_equal_across_threads_and_runs(
    model: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    case = Case(model, "miss", 4)

    bodies = sent([case, case], tmp_path, threads=2)

    rows = np.array([json.loads(body)["features"] for body in bodies], dtype=np.float32)
    assert rows.shape == (len(bodies), *shape)
    # What the caches compare: not one of them again, as float32.
    assert len({row.tobytes() for row in rows}) == len(rows)


def test_batches_of_a_miss_hold_as_many_rows_as_asked_for_all_different(tmp_path: Path) -> None:
    bodies = sent([Case("penguins", "miss", 2, rows=8)], tmp_path)

    batches = [json.loads(body)["instances"] for body in bodies]
    assert {len(batch) for batch in batches} == {8}
    assert len({tuple(row) for batch in batches for row in batch}) == 8 * len(batches)


def test_a_hit_is_one_body(tmp_path: Path) -> None:
    [body] = set(sent([Case("digits", "hit", 2)], tmp_path))
    assert np.array(json.loads(body)["features"]).shape == (8, 8)


def test_the_popular_bodies_of_zipf_are_as_popular_as_they_should_be(tmp_path: Path) -> None:
    bodies = sent([Case("penguins", "zipf", 4)] * 2, tmp_path, threads=2)

    file = (tmp_path / "penguins-zipf-0.txt").read_bytes().splitlines()
    assert len(set(file)) == ZIPF_ROWS
    counts = Counter(bodies)
    assert counts.keys() <= set(file)
    for rank in range(3):
        share = zipf().shares[rank]
        deviation = (share * (1 - share) / len(bodies)) ** 0.5
        assert counts[file[rank]] / len(bodies) == pytest.approx(share, abs=6 * deviation)
    assert max(len(list(equal)) for _, equal in groupby(bodies)) < 20  # drawn, not in order


def test_what_is_not_answered_with_a_2xx_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "body.txt"
    file.write_text("{}\n")
    with listening() as (url, _):
        load = wrk.run(url, ["/elsewhere", "hit", str(file)], connections=2, seconds=1)

    assert load.failures == load.requests > 0


def test_a_server_that_is_not_there_is_no_measurement(tmp_path: Path) -> None:
    file = tmp_path / "body.txt"
    file.write_text("{}\n")

    with pytest.raises(wrk.CannotMeasure):
        wrk.run("http://127.0.0.1:1", ["/predict", "hit", str(file)], connections=2, seconds=1)


@pytest.mark.parametrize("workload", ["hit", "miss", "zipf"])
def test_each_run_of_a_miss_or_a_zipf_has_a_number_of_its_own(workload: Workload, tmp_path: Path) -> None:
    bodies = Bodies(tmp_path)
    first, second = (bodies.arguments(Case("penguins", workload, 1)) for _ in range(2))
    assert (first == second) == (workload == "hit")


def test_the_bodies_of_a_zipf_can_be_sent_one_after_the_other(tmp_path: Path) -> None:
    bodies = Bodies(tmp_path)
    with listening() as (url, heard):
        wrk.run(url, ["/predict", *bodies.each(Case("penguins", "zipf", 1))], connections=1, seconds=1)

    file = (tmp_path / "penguins-zipf-0.txt").read_bytes().splitlines()
    assert len(heard) > 100
    first = file.index(heard[0])  # not 0: wrk looks at the first request itself
    assert heard == [file[index % len(file)] for index in range(first, first + len(heard))]


@pytest.mark.parametrize("workload", ["hit", "miss"])
def test_of_several_models_each_is_asked_in_turn(workload: Workload, tmp_path: Path) -> None:
    sent_case = Case("penguins-1", workload, 1, everyone=True)
    arguments = Bodies(tmp_path).arguments(sent_case)
    with listening() as (url, _):
        paths = ",".join(sent_case.paths(["penguins-1", "penguins-2", "penguins-3"]))
        wrk.run(url, [paths, *arguments], connections=1, seconds=1)

    counts = Counter(Listener.paths)
    assert counts.keys() == {f"/models/penguins-{number}/predict" for number in (1, 2, 3)}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_what_was_still_on_its_way_at_the_end_is_not_taken_for_idleness(tmp_path: Path) -> None:
    answered = itertools.count()
    over = threading.Event()

    def once_late() -> None:
        if next(answered) < 2:
            time.sleep(1.2)
        else:
            over.wait()

    file = tmp_path / "body.txt"
    file.write_text("{}\n")
    with listening(once_late) as (url, _):
        load = wrk.run(url, ["/predict", "hit", str(file)], connections=2, seconds=2)
        over.set()

    # Each connection got its answer after 1.2 s, and then waited for the rest of the two.
    assert load.requests == 2
    assert 1.2 <= load.seconds < 1.9


def test_a_server_that_stalls_is_as_slow_as_it_is(tmp_path: Path) -> None:
    answered = itertools.count()
    over = threading.Event()

    def stall() -> None:
        if next(answered) >= 50:
            over.wait()

    file = tmp_path / "body.txt"
    file.write_text("{}\n")
    with listening(stall) as (url, _):
        load = wrk.run(url, ["/predict", "hit", str(file)], connections=2, seconds=1)
        over.set()

    assert load.requests == 50
    assert load.seconds > 0.8
    assert load.requests_per_second < 65


def test_it_says_how_much_cpu_time_it_took_itself(tmp_path: Path) -> None:
    file = tmp_path / "body.txt"
    file.write_text("{}\n")
    with listening() as (url, _):
        load = wrk.run(url, ["/predict", "hit", str(file)], connections=2, seconds=1)

    assert 0 < load.cpu_seconds <= 1.5
    assert 0 < load.p50_seconds <= load.p99_seconds
    assert 0 < load.mean_seconds < load.max_seconds
