"""Jobs through nginx without anybody who answers them: long uploads, wrong ones, and long waits."""

from __future__ import annotations

import http.client
import json
import threading
import time

import psutil  # type: ignore[import-untyped]

from tests.stack import Stack


def test_what_a_client_sends_wrong_is_said_through_nginx_however_much_follows(stack: Stack) -> None:
    good = json.dumps([39.1, 18.7, 181.0]).encode() + b"\n"
    status, answer = stack.ask("POST", "/jobs", good * 10 + b"[1.0]\n" + good * 500_000)  # 10 MB: above all others
    assert status == 422, answer
    assert json.loads(answer)["detail"] == "expected 3 features per row, got 1 (row 10)"


def test_an_upload_of_a_million_rows_is_not_held_in_memory(stack: Stack) -> None:
    workers = [worker for replica in stack.replicas for worker in psutil.Process(replica.pid).children()]

    def memory() -> int:
        return sum(worker.memory_info().rss for worker in workers)

    lines = b"".join(b"[%d.5,18.7,%d.25]\n" % (index % 97, index) for index in range(1_000_000))
    before = memory()
    most = [before]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            most[0] = max(most[0], memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    try:
        status, answer = stack.ask("POST", "/jobs?priority=low", lines)
    finally:
        ended.set()
        watcher.join()
    job = json.loads(answer)
    assert (status, job["rows"]) == (202, 1_000_000), answer
    print(f"{len(lines)} bytes in {time.monotonic() - started:.1f} s, {(most[0] - before) / 1e6:.1f} MB more memory")
    assert most[0] - before < 24e6, "of an upload of 21 MB, whose rows are ten times that as objects"
    assert stack.ask("DELETE", f"/jobs/{job['id']}")[0] == 200


def test_who_watches_a_job_does_not_hold_up_a_stop(stack: Stack) -> None:
    status, answer = stack.ask("POST", "/jobs", b"[39.1,18.7,181.0]\n")
    assert status == 202, answer
    replica = stack.replicas[0]
    watching = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=20)
    watching.request("GET", f"/jobs/{json.loads(answer)['id']}/events")
    events = watching.getresponse()
    assert events.readline() == b"retry: 1000\n"

    began = time.monotonic()
    assert replica.stop() == 0

    assert time.monotonic() - began < 10, "far below the drain (20 s)"
    assert events.read().endswith(b"\n\n")
    watching.close()
    replica.start()
