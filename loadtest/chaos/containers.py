"""The bad days of containers, on a Docker engine: `make chaos STACK=compose`. One project for all of them."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID

from api.settings import Settings
from loadtest.chaos.ground import Ground, health
from loadtest.chaos.load import Load
from loadtest.chaos.oracle import Oracle
from loadtest.chaos.questions import Questions
from loadtest.chaos.reconcile import Logged, reconcile
from loadtest.chaos.scenario import Effort, Outcome, must_not_fail, outcome
from loadtest.chaos.stage import last_slow
from tests.servers import eventually
from tests.system.compose.stack import Stack

_REPLICAS = 3
_WHOLE_SECONDS = 120


class Project:
    """`make up` in a project of its own; stopped when the ground is cleared."""

    _running: tuple[Ground, Stack] | None = None

    @classmethod
    def on(cls, ground: Ground) -> Stack:
        if cls._running is None or cls._running[0] is not ground:
            stack = Stack(f"shoal-chaos-{os.getpid()}")
            leave = ExitStack()
            leave.enter_context(stack.up(f"docker compose up --build --detach --wait --scale api={_REPLICAS}"))
            ground.at_the_end(leave.close)
            ground.at_the_end(cls._forget)
            cls._running = ground, stack
        return cls._running[1]

    @classmethod
    def _forget(cls) -> None:
        cls._running = None


Fault = Callable[[Stack, Callable[[], None]], None]
"""Gets the project, and a wait for another tenth of the requests."""


def container_day(fault: Fault) -> Callable[[Ground, Effort], Outcome]:
    def run(ground: Ground, effort: Effort) -> Outcome:
        stack = Project.on(ground)
        port = stack.ports["HTTP_PORT"]
        wait_until_whole(port)
        name = f"run-{time.time_ns():x}"
        questions = Questions(name, time.time_ns() // 10**6, repeat_every=4)
        with Load(port, questions, effort.rate / 2) as load:

            def go_on(share: float = 0.1) -> None:
                goal = len(load.ledger) + effort.requests * share
                eventually(lambda: len(load.ledger) >= goal, within_seconds=240, because="the load goes on")

            go_on()
            fault(stack, go_on)
            ended = time.monotonic()
            wait_until_whole(port)
            whole = time.monotonic()
            go_on(max(0.2, 1 - len(load.ledger) / effort.requests))
        wait_until_whole(port)
        check = Oracle(Settings().model_repository).check
        reckoning = reconcile(load.ledger, questions, logged(stack, name), check=check)
        made = outcome(load.ledger, reckoning, max(whole, last_slow(load, ended)) - ended)
        must_not_fail(made)
        return made

    return run


def wait_until_whole(port: int) -> None:
    """All that a replica knows of is up, and the spool, which all share, is empty."""

    def whole() -> bool:
        try:
            state = health(port)
        except (OSError, http.client.HTTPException):
            return False
        return bool(state["status"] == "ok" and state["components"]["spool"]["rows"] == 0)

    eventually(whole, within_seconds=_WHOLE_SECONDS, because="the stack is whole")


def logged(stack: Stack, run: str) -> Iterator[Logged]:
    """The rows of one load."""
    columns = ", ".join(Logged._fields)
    query = f"SELECT row_to_json(p) FROM (SELECT {columns} FROM predictions WHERE request_id LIKE '{run}.%') p"  # noqa: S608
    for line in stack.query(query):
        row: dict[str, Any] = json.loads(line)
        yield Logged(**{**row, "id": UUID(row["id"])})


# --- faults -----------------------------------------------------------------------------------------------------------
def replicas_killed(stack: Stack, go_on: Callable[[], None]) -> None:
    """One after the other; the engine does not start again what was killed by hand, so each gets a successor."""
    for container in stack.containers("api"):
        stack.shell(f"docker kill {container}")
        go_on()
        stack.shell(f"docker start {container}")
        stack.wait_until_healthy(container)


def scaled(stack: Stack, go_on: Callable[[], None]) -> None:
    for replicas in (5, 2, _REPLICAS):
        stack.shell(f"docker compose up --detach --no-recreate --wait --scale api={replicas}", within_seconds=240)
        go_on()


def rolled(stack: Stack, go_on: Callable[[], None]) -> None:
    stack.shell("make roll", within_seconds=600)


def postgres_stopped(stack: Stack, go_on: Callable[[], None]) -> None:
    stack.shell("docker compose stop postgres")
    go_on()
    stack.shell("docker compose start postgres")


def postgres_killed(stack: Stack, go_on: Callable[[], None]) -> None:
    _killed(stack, "postgres", go_on)


def redis_killed(stack: Stack, go_on: Callable[[], None]) -> None:
    _killed(stack, "redis", go_on)


def frozen(stack: Stack, go_on: Callable[[], None]) -> None:
    """A replica, for 10 s: alive but silent."""
    [container, *_] = stack.containers("api")
    stack.shell(f"docker pause {container}")
    time.sleep(10)
    stack.shell(f"docker unpause {container}")
    go_on()


def _killed(stack: Stack, service: str, go_on: Callable[[], None]) -> None:
    [container] = stack.containers(service)
    stack.shell(f"docker kill {container}")
    go_on()
    stack.shell(f"docker start {container}")
