"""A connection to a worker, byte by byte: what a well-behaved client never does, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest
from uvicorn.server import ServerState

from api import lifespan
from api.app import build_app, load_programs
from api.lifespan import Programs
from api.models.repository import Repository
from api.models.runtime import Program
from api.models.staging import Outputs, Staging
from api.protocol import PredictionProtocol
from api.replica import Replica
from api.settings import Settings
from tests.integration.conftest import listening
from tests.servers import eventually_async as eventually

BODY = b'{"features":[39.1,18.7,181.0]}'


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._writer.write(piece)

    async def reply(self) -> Reply:
        """The next one on this connection."""
        async with asyncio.timeout(10):
            head = await self._reader.readuntil(b"\r\n\r\n")
            status, *lines = head.decode().split("\r\n")[:-2]
            headers = dict(line.split(": ", 1) for line in lines)
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Reply(int(status.split()[1]), headers, json.loads(body) if body else None)

    async def is_closed(self) -> bool:
        """Waits for the server to close, and says whether anything came before that."""
        async with asyncio.timeout(10):
            return await self._reader.read() == b""

    def leave(self) -> None:
        self._writer.transport.abort()


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


def request(body: bytes = BODY, *, path: str = "/predict", version: str = "1.1", **headers: str) -> bytes:
    fields = {"Host": "shoal", "Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/{version}\r\n{lines}\r\n".encode() + body


class Gate:
    """Before a model: holds its runs while it is closed."""

    def __init__(self, program: Program) -> None:
        self._run = program.run_staged
        self.open = threading.Event()
        self.open.set()
        self.rows_run = 0

    def run_staged(self, staged: Staging) -> Outputs:
        assert self.open.wait(10)
        self.rows_run += staged.rows
        return self._run(staged)


class Worker(NamedTuple):
    replica: Replica
    gate: Gate
    url: str
    connections: ServerState
    """What uvicorn knows of them."""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        try:
            yield Client(reader, writer)
        finally:
            writer.close()


@pytest.fixture
def gated_models(shipped_models: tuple[Repository, Programs]) -> Iterator[tuple[Repository, Programs, Gate]]:
    """The shipped models of their own, for these tests hold their runs."""
    repository = shipped_models[0]
    programs = load_programs(repository, "cpu")
    program = programs["penguins", "2"]
    gate = Gate(program)
    program.run_staged = gate.run_staged  # type: ignore[method-assign]
    yield repository, programs, gate
    gate.open.set()


@pytest.fixture
async def worker(settings: Settings, gated_models: tuple[Repository, Programs, Gate]) -> AsyncIterator[Worker]:
    repository, programs, gate = gated_models
    settings = settings.model_copy(update={"inline_run_seconds": 0, "max_requests_in_flight": 4})
    connections = ServerState()
    async with (
        lifespan.open_replica(settings, repository, programs) as state,
        listening(build_app(settings, repository, programs), dict(state), connections) as url,
    ):
        yield Worker(state["replica"], gate, url, connections)


async def in_flight(worker: Worker, requests: int) -> None:
    await eventually(lambda: len(worker.replica.in_flight) == requests)


# --- one after the other ----------------------------------------------------------------------------------------------
async def test_a_connection_takes_one_request_after_the_other(worker: Worker) -> None:
    async with worker.connected() as client:
        tiers = []
        for _ in range(3):
            client.send(request())
            reply = await client.reply()
            tiers.append((reply.status, reply.headers["x-cache"], reply.body["cached"]))

    assert tiers == [(200, "miss", False), (200, "local", True), (200, "local", True)]


async def test_a_request_may_come_byte_by_byte(worker: Worker) -> None:
    async with worker.connected() as client:
        for byte in request():
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.reply()).status == 200


@pytest.mark.parametrize("other", [request(), b"GET /health/live HTTP/1.1\r\nHost: shoal\r\n\r\n"])
async def test_requests_sent_at_once_are_answered_in_their_order(worker: Worker, other: bytes) -> None:
    worker.gate.open.clear()
    async with worker.connected() as client:
        client.send(request(X_Request_Id="first") + other + request(X_Request_Id="last"))
        await in_flight(worker, 1)
        worker.gate.open.set()

        replies = [await client.reply() for _ in range(3)]

    assert [reply.status for reply in replies] == [200, 200, 200]
    assert (replies[0].headers["x-request-id"], replies[2].headers["x-request-id"]) == ("first", "last")


async def test_who_wants_to_close_is_closed(worker: Worker) -> None:
    async with worker.connected() as client:
        client.send(request(Connection="close"))
        reply = await client.reply()

        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.is_closed()


async def test_an_old_client_is_answered_and_closed(worker: Worker) -> None:
    async with worker.connected() as client:
        client.send(request(version="1.0"))

        assert (await client.reply()).status == 200
        assert await client.is_closed()


async def test_a_client_that_asks_first_is_told_to_go_on(worker: Worker) -> None:
    async with worker.connected() as client:
        head, _, body = request(Expect="100-continue").partition(b"\r\n\r\n")
        client.send(head + b"\r\n\r\n")
        assert (await client.reply()).status == 100
        client.send(body)
        assert (await client.reply()).status == 200


async def test_a_body_in_chunks_is_put_together(worker: Worker) -> None:
    async with worker.connected() as client:
        head = request().partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
        client.send(head, b"%x\r\n%b\r\n" % (10, BODY[:10]), b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY) - 10, BODY[10:]))

        assert (await client.reply()).status == 200


async def test_a_query_changes_nothing(worker: Worker) -> None:
    async with worker.connected() as client:
        client.send(request(path="/predict?x=1") + request(path="/models/penguins/versions/2/predict?"))

        assert [(await client.reply()).status for _ in range(2)] == [200, 200]


async def test_a_body_longer_than_the_limit_is_refused_before_it_is_read(worker: Worker) -> None:
    async with worker.connected() as client:
        client.send(request(b"", Content_Length="5000"))  # and nothing of it
        reply = await client.reply()

    assert reply.status == 413
    assert "at most 4096 bytes, got 5000" in reply.body["detail"]


async def test_what_follows_a_request_and_is_none_is_refused(worker: Worker) -> None:
    async with worker.connected() as client:
        client.send(request())
        assert (await client.reply()).status == 200
        client.send(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert (await client.reply()).body["type"] == "urn:shoal:problem:malformed-request"
        assert await client.is_closed()


async def test_a_callback_that_breaks_is_our_fault_and_leaves_its_trace(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(PredictionProtocol, "on_body", lambda self, body: 1 / 0)
    async with worker.connected() as client:
        client.send(request())
        reply = await client.reply()
        assert (reply.status, reply.body["type"]) == (500, "urn:shoal:problem:internal-error")
        assert await client.is_closed()
    assert "ZeroDivisionError" in caplog.text


async def test_an_upgrade_is_not_taken_up(worker: Worker) -> None:
    async with worker.connected() as client:
        client.send(b"GET /health/live HTTP/1.1\r\nHost: shoal\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
        client.send(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n")
        assert (await client.reply()).status == 200


# --- bad days -------------------------------------------------------------------------------------------------------
async def test_a_row_whose_client_left_is_not_run(worker: Worker) -> None:
    worker.gate.open.clear()
    async with worker.connected() as blocker, worker.connected() as leaving:
        blocker.send(request())
        await in_flight(worker, 1)
        leaving.send(request(b'{"features":[1,2,3]}'))
        await in_flight(worker, 2)

        leaving.leave()
        await in_flight(worker, 1)
        run_before = worker.gate.rows_run
        worker.gate.open.set()

        assert (await blocker.reply()).status == 200
        assert worker.gate.rows_run == run_before + 1
        assert worker.replica.predictor._flights == {}


async def test_a_client_may_leave_in_the_middle_of_its_body(worker: Worker) -> None:
    async with worker.connected() as leaving, worker.connected() as client:
        leaving.send(request()[:-5])
        leaving.leave()
        client.send(request())
        assert (await client.reply()).status == 200
    await in_flight(worker, 0)


async def test_a_prediction_ends_at_its_deadline(worker: Worker) -> None:
    worker.gate.open.clear()
    deadlines = worker.replica.in_flight
    usual, deadlines.deadline_seconds = deadlines.deadline_seconds, 0.1
    async with worker.connected() as client:
        client.send(request())
        reply = await client.reply()
        deadlines.deadline_seconds = usual
        worker.gate.open.set()

        assert (reply.status, reply.body["type"]) == (504, "urn:shoal:problem:deadline-exceeded")
        assert reply.headers["retry-after"] == "1"
        client.send(request())
        assert (await client.reply()).status == 200  # the connection is as good as before
    assert worker.replica.predictor._flights == {}


async def test_more_requests_than_a_worker_takes_are_refused_at_once(worker: Worker) -> None:
    worker.gate.open.clear()
    async with AsyncExitStack() as stack:
        *clients, late = [await stack.enter_async_context(worker.connected()) for _ in range(5)]
        for client in clients:
            client.send(request())
        await in_flight(worker, 4)
        late.send(request())
        refused = await late.reply()

        worker.gate.open.set()
        answered = [(await client.reply()).status for client in clients]
        late.send(request())
        later = await late.reply()

    assert (refused.status, refused.body["type"]) == (429, "urn:shoal:problem:overloaded")
    assert refused.headers["retry-after"] == "1"
    assert answered == [200, 200, 200, 200]
    assert later.status == 200


async def test_what_the_drain_cannot_wait_for_is_told_so(worker: Worker) -> None:
    worker.gate.open.clear()
    async with worker.connected() as one, worker.connected() as other:
        one.send(request())
        other.send(request())
        await in_flight(worker, 2)
        for task in worker.connections.tasks:  # as uvicorn's Server.shutdown does when its drain is over
            task.cancel(msg="timeout graceful shutdown exceeded")
        replies = [await one.reply(), await other.reply()]
        worker.gate.open.set()

    assert [(reply.status, reply.body["type"]) for reply in replies] == [(503, "urn:shoal:problem:stopping")] * 2
    assert worker.connections.tasks == set()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[PredictionProtocol] = []
    looked = asyncio.Event()
    connection_made = PredictionProtocol.connection_made
    close_if_idle = PredictionProtocol._close_if_idle

    def remember(self: PredictionProtocol, transport: asyncio.Transport) -> None:
        made.append(self)
        self.timeout_keep_alive = 1
        connection_made(self, transport)

    def look(self: PredictionProtocol) -> None:
        close_if_idle(self)
        looked.set()

    monkeypatch.setattr(PredictionProtocol, "connection_made", remember)
    monkeypatch.setattr(PredictionProtocol, "_close_if_idle", look)
    async with worker.connected() as client:
        client.send(request())
        await client.reply()
        worker.gate.open.clear()
        client.send(request(b'{"features":[3,2,1]}'))  # taken before the second is over, and held beyond it
        await in_flight(worker, 1)
        async with asyncio.timeout(10):
            await looked.wait()
        worker.gate.open.set()
        assert (await client.reply()).status == 200
        assert await client.is_closed()
    assert len(made) == 1
