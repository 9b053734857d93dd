"""A flush of the cache through one replica reaches every worker of every replica, and Redis."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from api.__main__ import main
from tests.servers import Replica, eventually
from tests.stack import Stack


@pytest.fixture(scope="module")
def stack(folders: Callable[[], Path]) -> Iterator[Stack]:
    stack = Stack(folders(), replicas=2, SHOAL_WORKERS="2")
    try:
        stack.start()
        yield stack
    finally:
        stack.close()


def ask(worker: http.client.HTTPConnection, row: int) -> str:
    """Where the answer came from."""
    body = json.dumps({"features": [1.0, 2.0, float(row)]})
    worker.request("POST", "/predict", body, {"Content-Type": "application/json"})
    reply = worker.getresponse()
    assert reply.status == 200, reply.read()
    reply.read()
    return str(reply.headers["X-Cache"])


def admin(replica: Replica) -> dict[str, str]:
    token = (replica.folder / "admin_token").read_text().strip()
    return {"Content-Type": "application/json", "X-API-Key": token}


def flush(replica: Replica, **body: str) -> dict[str, object]:
    with closing(http.client.HTTPConnection("127.0.0.1", replica.port, timeout=10)) as connection:
        connection.request("POST", "/admin/cache/flush", json.dumps(body), admin(replica))
        reply = connection.getresponse()
        assert reply.status == 200, reply.read()
        answer: dict[str, object] = json.loads(reply.read())
        return answer


def workers_of(stack: Stack) -> set[int]:
    return {worker.pid for replica in stack.replicas for worker in psutil.Process(replica.pid).children()}


def connected(stack: Stack, held: ExitStack) -> dict[int, http.client.HTTPConnection]:
    """A connection to each worker of each replica, by its pid."""
    found: dict[int, http.client.HTTPConnection] = {}
    workers = workers_of(stack)

    def one_more() -> bool:
        for replica in stack.replicas:
            connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=10)
            held.callback(connection.close)
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            [pid] = (pid for pid in workers if connection.sock.getsockname() in peers(pid))
            found.setdefault(pid, connection)
        return found.keys() == workers

    eventually(one_more, within_seconds=30, because="every worker, a new one too, has taken a connection")
    return found


def peers(pid: int) -> set[tuple[str, int]]:
    return {tuple(each.raddr) for each in psutil.Process(pid).net_connections("tcp") if each.raddr}


def test_a_flush_reaches_the_memory_of_every_worker_before_it_is_answered(stack: Stack) -> None:
    with ExitStack() as held:
        workers = connected(stack, held)
        assert len(workers) == 4
        for worker in workers.values():
            for row in range(4):
                eventually(lambda one=worker, row=row: ask(one, row) == "local")  # type: ignore[misc]

        flushed = flush(stack.replicas[0], model="penguins")

        assert (flushed["workers"], flushed["pending"]) == (4, 0)
        # A row each: the first answer of one would be another's, from Redis.
        assert [ask(worker, row) for row, worker in enumerate(workers.values())] == ["miss"] * 4


def test_a_worker_that_comes_later_finds_nothing_that_was_flushed(stack: Stack) -> None:
    with ExitStack() as held:
        workers = connected(stack, held)
        pid, worker = workers.popitem()
        for row in range(10, 14):
            ask(worker, row)
        flush(stack.replicas[1], model="penguins", version="2")
        psutil.Process(pid).kill()

        eventually(
            lambda: len(workers_of(stack) - {pid}) == 4, within_seconds=30, because="another worker has taken its place"
        )
        [new] = (worker for each, worker in connected(stack, held).items() if each not in workers)

        assert [ask(new, row) for row in range(10, 14)] == ["miss"] * 4


def test_a_flush_of_another_model_changes_nothing(stack: Stack) -> None:
    with ExitStack() as held:
        workers = connected(stack, held).values()
        for worker in workers:
            eventually(lambda one=worker: ask(one, 20) == "local")  # type: ignore[misc]

        flush(stack.replicas[0], model="digits")

        assert [ask(worker, 20) for worker in workers] == ["local"] * 4


def token_of_another(stack: Stack) -> Path:
    """These two have a folder each, and so a token each; those of `make run` share one."""
    return stack.replicas[1].folder / "admin_token"


def test_the_command_says_what_it_did(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    replica = ["--replica", stack.replicas[0].address, "--token-file", str(stack.replicas[0].folder / "admin_token")]

    assert main(["flush", "penguins", "--version", "2", *replica]) == 0
    assert capsys.readouterr().out == "flushed penguins/2: 4 workers left its answers behind, 0 hang\n"
    assert main(["flush", "walrus", *replica]) == 1
    assert "no model 'walrus' is served" in capsys.readouterr().out
    assert main(["flush", "penguins", *replica, "--replica", "127.0.0.1:1"]) == 2
    assert "cannot be asked" in capsys.readouterr().err
    assert main(["flush", "penguins", *replica, "--token-file", "/nowhere/token"]) == 2
    assert "/nowhere/token: No such file or directory" in capsys.readouterr().err
    assert main(["flush", "penguins", *replica, "--token-file", str(token_of_another(stack))]) == 1
    assert "expected the admin token" in capsys.readouterr().out
