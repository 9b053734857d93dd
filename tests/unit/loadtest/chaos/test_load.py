"""The load is steady whatever becomes of its requests, and its ledger says what did."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from loadtest.chaos import load as load_module
from loadtest.chaos.ledger import BROKEN, SILENT
from loadtest.chaos.load import Load
from loadtest.chaos.questions import Questions
from tests.servers import eventually, free_ports
from tests.unit.loadtest.chaos.conftest import Answer, Server

Serving = Callable[[Answer], AbstractContextManager[Server]]


def reply(status: int, body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 %d X\r\n%bcontent-length: %d\r\n\r\n%b" % (status, lines, len(body), body)


def run(server: Server, requests: int, rate: float = 500) -> Load:
    with Load(server.port, Questions("run", 1), rate) as load:
        eventually(lambda: len(load.ledger) >= requests)
    return load


def test_every_request_and_its_answer_are_kept(serving: Serving) -> None:
    with serving(lambda number: reply(200, b"answer %d" % number)) as server:
        load = run(server, 50)

    ledger = load.ledger
    assert len(server.requests) == len(ledger) == ledger.answered
    assert sorted(server.requests) == sorted(load.questions.message(number) for number in range(len(ledger)))
    assert ledger.bodies == [b"answer %d" % number for number in range(len(ledger))]
    assert all(0 <= ledger.latency(number) < 5 for number in range(len(ledger)))


def test_a_refusal_is_kept_with_its_status_and_when_to_come_back(serving: Serving) -> None:
    with serving(lambda number: reply(429, b"later", b"Retry-After: 7") if number % 2 else reply(200, b"")) as server:
        ledger = run(server, 20).ledger

    assert set(ledger.status[1::2]) == {429}
    assert set(ledger.retry_after[1::2]) == {7}
    assert set(ledger.retry_after[::2]) == {-1}
    assert ledger.reasons[1] == "later"


def test_answers_in_pieces_are_put_together(serving: Serving) -> None:
    big = bytes(300_000)
    with serving(lambda number: reply(200, big)) as server:
        assert set(run(server, 20, rate=100).ledger.bodies) == {big}


def test_a_connection_that_breaks_is_a_failure_and_the_next_request_gets_a_new_one(serving: Serving) -> None:
    with serving(lambda number: None if number % 5 == 0 else reply(200, b"")) as server:
        ledger = run(server, 30).ledger

    assert set(ledger.status[::5]) == {BROKEN}
    assert ledger.statuses()[200] == len(ledger) - len(ledger.status[::5])


def test_a_server_that_is_not_there_is_a_failure() -> None:
    [port] = free_ports()
    ledger = run(Server(port, []), 10).ledger
    assert set(ledger.status) == {BROKEN}
    assert "no connection" in ledger.reasons[0]


def test_requests_that_wait_for_a_connection_end_although_there_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "_MAX_CONNECTIONS", 1)
    [port] = free_ports()
    ledger = run(Server(port, []), 50, rate=10_000).ledger
    assert set(ledger.status) == {BROKEN}


def test_connections_that_never_open_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:  # which accepts none, and queues one or two
        ledger = run(Server(silent.getsockname()[1], []), 50).ledger
    assert set(ledger.status) == {SILENT}


def test_the_load_goes_on_at_its_rate_while_nothing_is_answered(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "TIMEOUT_SECONDS", 1)
    with serving(lambda number: b"") as server:
        began = time.monotonic()
        ledger = run(server, 200, rate=400).ledger

    assert time.monotonic() - began < 10
    assert set(ledger.status) == {SILENT}
    assert all(
        later - sooner == pytest.approx(1 / 400) for sooner, later in zip(ledger.due, ledger.due[1:], strict=False)
    )


def test_latency_counts_from_when_the_request_was_due(serving: Serving) -> None:
    held = 0.3

    def answer(number: int) -> bytes:
        if number == 10:
            time.sleep(held)  # holds up all others, too
        return reply(200, b"")

    with serving(answer) as server:
        ledger = run(server, 200, rate=200).ledger

    slow = [latency for latency in ledger.latencies(200) if latency > held / 3]
    assert len(slow) > 20  # of the 60 that were due meanwhile; a closed loop would have seen one


def test_the_rate_can_be_changed(serving: Serving) -> None:
    with serving(lambda number: reply(200, b"")) as server, Load(server.port, Questions("run", 1), 10) as load:
        eventually(lambda: len(load.ledger) > 1)
        load.rate = 1000
        eventually(lambda: len(load.ledger) > 300, within_seconds=5)
