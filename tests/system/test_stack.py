"""Through nginx to two replicas that share a Postgres and a Redis: what a client sees, in good days and in bad ones."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest

from tests.load import Load, Report
from tests.servers import Server, eventually, status_of
from tests.stack import Stack

ROW = {"features": [1.0, 2.0, 3.0]}


def post(port: int, body: object = ROW, **headers: str) -> tuple[int, dict[str, Any], http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", "/predict", json.dumps(body), {"Content-Type": "application/json", **fields})
        response = connection.getresponse()
        return response.status, json.loads(response.read()), response.headers
    finally:
        connection.close()


def logged(stack: Stack) -> set[str]:
    """The ids in the table. Postgres keeps them unique."""
    with psycopg.connect(stack.postgres.dsn) as connection:
        return {str(id) for (id,) in connection.execute("SELECT id FROM predictions").fetchall()}


def assert_nothing_was_lost(stack: Stack, report: Report) -> None:
    """Every request was answered, and every answer is in the log, once."""
    assert report.failures == [], str(report)
    assert len(report.ids) == len(set(report.ids))
    eventually(lambda: logged(stack) >= set(report.ids), within_seconds=20, because=f"all rows are there: {report}")


def answered(load: Load, more: int, within_seconds: float = 30) -> None:
    """Wait until that many more requests were answered."""
    goal = load.answered + more
    eventually(lambda: load.answered >= goal, within_seconds=within_seconds, because=f"{more} more answers")


def healthy(stack: Stack) -> None:
    for replica in stack.replicas:
        eventually(lambda port=replica.port: status_of(port, "/health/ready") == 200)  # type: ignore[misc]


def test_the_second_answer_to_a_question_comes_from_the_cache(stack: Stack) -> None:
    first = post(stack.nginx.port)
    # Nearly always the second. On a busy machine Redis may not have it yet, or take longer than its budget.
    second = eventually(lambda: (answer := post(stack.nginx.port))[1]["cached"] and answer)

    assert (first[0], first[1]["cached"], first[2]["X-Cache"]) == (200, False, "miss")
    assert (second[0], second[1]["cached"]) == (200, True)
    assert second[2]["X-Cache"] in {"local", "redis"}
    assert first[1]["id"] != second[1]["id"]
    for field in ("prediction", "label", "confidence", "model", "version"):
        assert first[1][field] == second[1][field]


def test_a_prediction_is_in_the_log_when_it_is_answered(stack: Stack) -> None:
    status, answer, _ = post(stack.nginx.port, X_Request_Id="in-the-log")

    with psycopg.connect(stack.postgres.dsn) as connection:
        row = connection.execute(
            "SELECT input_data, prediction, confidence, request_id FROM predictions WHERE id = %s", (answer["id"],)
        ).fetchone()
    assert status == 200
    assert row is not None
    assert row[0] == ROW["features"]
    assert row[2] == pytest.approx(answer["confidence"], rel=1e-6)
    assert row[3] == "in-the-log"


def test_a_client_cannot_choose_the_id_or_the_time_of_its_row(stack: Stack) -> None:
    seed, time = "0" * 32, "1000000000.000"
    ids = {UUID(post(stack.nginx.port, X_Shoal_Id=seed, X_Shoal_Time=time)[1]["id"]) for _ in range(2)}

    assert len(ids) == 2
    for id in ids:
        assert id.int >> 80 > 1_600_000_000_000  # milliseconds; the first 48 bits of a version 7


def test_the_request_id_comes_back_once(stack: Stack) -> None:
    _, _, headers = post(stack.nginx.port, X_Request_Id="round-trip")
    assert headers.get_all("X-Request-Id") == ["round-trip"]


def test_the_documentation_is_served_with_addresses_that_point_back_here(stack: Stack) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/models", "/predictions", "/health"):
        assert status_of(stack.nginx.port, path) == 200, path


def test_a_replica_that_is_killed_costs_no_request(stack: Stack) -> None:
    with Load("127.0.0.1", stack.nginx.port) as load:
        answered(load, 100)
        stack.replicas[0].kill()
        answered(load, 200)
        stack.replicas[0].start()
        answered(load, 100)
    assert_nothing_was_lost(stack, load.report)


def test_a_worker_that_is_killed_costs_no_request(stack: Stack) -> None:
    [worker] = psutil.Process(stack.replicas[0].pid).children()
    with Load("127.0.0.1", stack.nginx.port) as load:
        answered(load, 100)
        worker.kill()
        answered(load, 300)
    assert_nothing_was_lost(stack, load.report)
    healthy(stack)


def test_a_replica_that_is_asked_to_stop_drains_and_costs_no_request(stack: Stack) -> None:
    with Load("127.0.0.1", stack.nginx.port) as load:
        answered(load, 100)
        status = stack.replicas[0].stop()
        answered(load, 100)
        stack.replicas[0].start()
        answered(load, 100)
    assert status == 0
    assert_nothing_was_lost(stack, load.report)


def test_idle_connections_do_not_hold_up_a_stop(stack: Stack) -> None:
    replica = stack.replicas[1]
    with socket.create_connection(("127.0.0.1", replica.port)) as idle:
        idle.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 200"

        replica.process.send_signal(signal.SIGTERM)

        # Far below the drain (20 s), which is for requests in flight only.
        eventually(lambda: replica.process.poll() is not None, within_seconds=8, because="the replica has stopped")
    assert replica.stop() == 0
    replica.start()


@pytest.mark.parametrize("store", ["postgres", "redis"])
@pytest.mark.parametrize(
    ("fail", "mend"), [(Server.stop, Server.start), (Server.pause, Server.resume)], ids=["away", "frozen"]
)
def test_a_store_that_fails_costs_no_request_and_no_row(
    stack: Stack, store: str, fail: Callable[[Server], object], mend: Callable[[Server], None]
) -> None:
    server: Server = getattr(stack, store)
    with Load("127.0.0.1", stack.nginx.port) as load:
        answered(load, 100)
        fail(server)
        answered(load, 300)
        mend(server)
        answered(load, 100)
    assert_nothing_was_lost(stack, load.report)


def test_nginx_that_is_asked_to_stop_finishes_what_it_has(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.nginx.port)) as client:
        body = json.dumps(ROW).encode()
        client.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        assert client.recv(100).startswith(b"HTTP/1.1 100")  # nginx has the request, and waits for its body

        stack.nginx.process.send_signal(signal.SIGQUIT)
        eventually(lambda: status_of(stack.nginx.port, "/") == -1, because="nginx takes no more requests")
        client.sendall(body)
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 200
        assert json.loads(response.read())["model"] == "penguins"
    assert stack.nginx.stop() == 0
    stack.nginx.start()
