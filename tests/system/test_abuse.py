"""Raw bytes at nginx's port: requests that mean one thing to nginx and another to a replica, that never end, or are
none.

None may reach a replica as a second request, be answered with a server error, hang, or leave anything behind. 501 and
505 are no server errors here: nginx says with them that it does not speak what was asked.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.servers import Server, eventually
from tests.stack import Stack

BODY = b'{"features":[39.1,18.7,181]}'
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GOOD = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
LAST = GOOD.replace(b"Host", b"Connection: close\r\nHost")
HIDDEN = b"GET /models HTTP/1.1\r\nHost: x\r\nX-Request-Id: hidden\r\n\r\n"
"""A request within another: if a replica ever answers it, its id is in the log."""

CL = b"Content-Length: %d\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

SMUGGLING = {
    "CL.TE": HEAD + CL % len(CHUNKED + HIDDEN) + TE + b"\r\n" + CHUNKED + HIDDEN,
    "TE.CL": HEAD + TE + CL % 4 + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
    "TE.TE, twice": HEAD + TE + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKED + HIDDEN,
    "TE.TE, in one line": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKED + HIDDEN,
    "TE.TE, chunked twice": HEAD + TE + TE + b"\r\n" + CHUNKED + HIDDEN,
    "TE with a tab": HEAD + CL % len(BODY) + b"Transfer-Encoding:\tchunked\r\n\r\n" + BODY + HIDDEN,
    "TE with a vertical tab": HEAD + CL % len(BODY) + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + BODY + HIDDEN,
    "TE with a space before the colon": HEAD + CL % 0 + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED + HIDDEN,
    "TE in another case": HEAD + CL % len(BODY) + b"tRANSFER-eNCODING: xCHUNKED\r\n\r\n" + BODY + HIDDEN,
    "TE with an underscore": HEAD + CL % len(BODY) + b"Transfer_Encoding: chunked\r\n\r\n" + BODY + HIDDEN,
    "TE on a folded line": HEAD + CL % len(BODY) + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n" + BODY + HIDDEN,
    "TE after a bare LF": HEAD + CL % len(BODY) + b"X: y\nTransfer-Encoding: chunked\r\n\r\n" + BODY + HIDDEN,
    "TE after a bare CR": HEAD + CL % len(BODY) + b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + BODY + HIDDEN,
    "TE after a NUL": HEAD + CL % len(BODY) + b"X: \x00\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY + HIDDEN,
    "TE in HTTP/1.0": HEAD.replace(b"1.1", b"1.0") + CL % len(BODY) + TE + b"\r\n" + CHUNKED + HIDDEN,
    "two CL, the first right": HEAD + CL % len(BODY) + CL % len(BODY + HIDDEN) + b"\r\n" + BODY + HIDDEN,
    "two CL, the last right": HEAD + CL % 0 + CL % len(BODY) + b"\r\n" + BODY + HIDDEN,
    "two equal CL": HEAD + CL % len(BODY) + CL % len(BODY) + b"\r\n" + BODY,
    "CL as a list": HEAD + b"Content-Length: 28, 28\r\n\r\n" + BODY + HIDDEN,
    "CL with a sign": HEAD + b"Content-Length: +28\r\n\r\n" + BODY + HIDDEN,
    "CL below zero": HEAD + b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "CL in hex": HEAD + b"Content-Length: 0x1c\r\n\r\n" + BODY + HIDDEN,
    "CL beyond 64 bits": HEAD + b"Content-Length: 18446744073709551644\r\n\r\n" + BODY + HIDDEN,
    "CL with a comment": HEAD + b"Content-Length: 28 (x)\r\n\r\n" + BODY + HIDDEN,
    "a chunk's size beyond 64 bits": HEAD + TE + b"\r\n1000000000000001c\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN,
    "a chunk's size below zero": HEAD + TE + b"\r\n-1c\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN,
    "a chunk's size with 0x": HEAD + TE + b"\r\n0x1c\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN,
    "a chunk that is longer than it says": HEAD + TE + b"\r\n1\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN,
    "a chunk without its end": HEAD + TE + b"\r\n1c\r\n" + BODY + b"0\r\n\r\n" + HIDDEN,
    "an extension with a line end": HEAD + TE + b"\r\n1c;a=\nb\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN,
    "trailers": HEAD + TE + b"\r\n" + CHUNKED[:-2] + b"Content-Length: 99\r\nX-Request-Id: hidden\r\n\r\n",
    "a header that hides one": b"GET /models HTTP/1.1\r\nHost: x\r\nX: y\r\n\tz\r\n: " + HIDDEN,
    "two Hosts": b"GET /models HTTP/1.1\r\nHost: x\r\nHost: y\r\nX-Request-Id: hidden\r\n\r\n",
    "a line break in the path": b"GET / HTTP/1.1\rGET /models HTTP/1.1\r\nHost: x\r\nX-Request-Id: hidden\r\n\r\n",
    "an encoded line break": b"GET /models%20HTTP/1.1%0d%0aX-Request-Id:%20hidden%0d%0a HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header that names others": HEAD + CL % len(BODY) + b"Connection: content-length\r\n\r\n" + BODY,
    "an upgrade to HTTP/2": HEAD + CL % len(BODY) + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + BODY,
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "the ids of nginx": HEAD + CL % len(BODY) + b"X-Shoal-Id: %b\r\n\r\n" % (b"f" * 32) + BODY,
}  # fmt: skip
NO_SECOND_REQUEST = {name: bytes_ for name, bytes_ in SMUGGLING.items() if HIDDEN not in bytes_}

HALF = {
    "nothing": b"",
    "half a request line": b"POST /pre",
    "half a header": HEAD + b"Content-Le",
    "no body": HEAD + CL % 100 + b"\r\n",
    "half a body": GOOD[:-5],
    "half a chunk": HEAD + TE + b"\r\n1c\r\n" + BODY[:5],
    "no last chunk": HEAD + TE + b"\r\n1c\r\n" + BODY + b"\r\n",
    "no answer to an Expect": HEAD + CL % 100 + b"Expect: 100-continue\r\n\r\n",
}

TOO_MUCH = {
    "a long header": HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": HEAD + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 1000) for n in range(1000)) + b"\r\n",
    "many short headers": HEAD + CL % len(BODY) + b"".join(b"X%d: a\r\n" % n for n in range(2000)) + b"\r\n" + BODY,
    "a header that never ends": HEAD + b"X: " + b"a" * 10_000_000,
    "a long path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long method": b"A" * 100_000 + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a body over the limit, in chunks": HEAD + TE + b"\r\n" + b"100000\r\n%b\r\n" % bytes(1 << 20) * 9 + b"0\r\n\r\n",
    "many chunks of one byte": HEAD + TE + b"\r\n" + b"1\r\n \r\n" * 50_000 + CHUNKED,
    "a chunk's long extension": HEAD + TE + b"\r\n1c;" + b"a" * 1_000_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "binary": bytes(range(256)) * 100,
    "TLS where none is spoken": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "empty lines": b"\r\n" * 50_000 + GOOD,
}


QUIET_SECONDS = 0.15  # many times what a cached answer takes; a later one would be missing, and not wrong
CLIENT_SECONDS = 20


@pytest.fixture(scope="module")
def stack(folders: Callable[[], Path]) -> Iterator[Stack]:
    stack = Stack(folders(), replicas=1)
    try:
        stack.start()
        eventually(lambda: answers(stack, LAST) == [200])
        yield stack
    finally:
        stack.close()


@pytest.fixture(autouse=True)
def _as_before(stack: Stack) -> Iterator[None]:
    """However a test leaves the stack: the next good request works, nothing is in flight, and no file is left open."""
    before = held(stack)
    yield
    assert answers(stack, LAST) == [200]
    eventually(lambda: in_flight(stack) <= 1, because="only this question is in flight")
    # Those between nginx and the replica that are idle are kept for 60 s, and there may be many after many at once.
    because = f"{before} open files and connections, and few more"
    eventually(lambda: held(stack) <= before + 8, within_seconds=75, because=because)
    lines = "".join(server.log.read_text(errors="replace") for server in (stack.replicas[0], stack.nginx))
    assert re.findall(r'.*(?:"status":5(?!01|05)\d\d|Traceback|\[alert\]|\[crit\]).*', lines) == []


def held(stack: Stack) -> int:
    """File descriptors of nginx and of the replica, with their children."""

    def of(server: Server) -> int:
        parent = psutil.Process(server.pid)
        return sum(each.num_fds() for each in [parent, *parent.children(recursive=True)])

    return of(stack.nginx) + of(stack.replicas[0])


def in_flight(stack: Stack) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.replicas[0].port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    [value] = re.findall(r"^shoal_requests_in_flight(?:\{.*\})? (\S+)$", text, re.MULTILINE)
    return float(value)


def connect(stack: Stack) -> socket.socket:
    return socket.create_connection(("127.0.0.1", stack.nginx.port), timeout=CLIENT_SECONDS)


def answers(stack: Stack, requests: bytes) -> list[int]:
    """The status of every answer to these bytes, the last of which has nginx close."""
    with connect(stack) as connection:
        connection.sendall(requests)
        answer = bytearray()
        while more := connection.recv(65536):
            answer += more
    return _statuses(answer)


def exchange(stack: Stack, request: bytes) -> list[int]:
    """The same of any bytes: until nginx closes, or we do as nothing more comes. A late answer is missing."""
    with connect(stack) as connection:
        answer = bytearray()
        with contextlib.suppress(ConnectionError):  # closed before all of it was read
            connection.sendall(request)
            connection.settimeout(QUIET_SECONDS)
            while more := _received(connection):
                answer += more
    return _statuses(answer)


def _statuses(answer: bytearray) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except TimeoutError:
        connection.settimeout(CLIENT_SECONDS)  # not so long as any wait of nginx: it ends as we do
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(65536)


def ids(server: Server) -> list[str]:
    """Of the requests that nginx or the replica answered. nginx writes them within a second."""
    lines = server.log.read_text(errors="replace").splitlines()
    return [json.loads(line)["request_id"] for line in lines if '"request_id"' in line]


def written(stack: Stack) -> list[str]:
    """The ids, when the replica has written the lines of all it answered until now."""
    marker = f"marker-{time.monotonic_ns()}"
    assert answers(stack, LAST.replace(b"Host", b"X-Request-Id: %b\r\nHost" % marker.encode())) == [200]
    eventually(lambda: marker in ids(stack.replicas[0]))
    return ids(stack.replicas[0])


def test_a_second_request_would_be_seen(stack: Stack) -> None:
    assert answers(stack, GOOD + HIDDEN + LAST) == [200, 200, 200]
    assert written(stack).count("hidden") == 1


@pytest.mark.parametrize("name", SMUGGLING)
def test_no_request_is_smuggled(stack: Stack, name: str) -> None:
    hidden = f"hidden-{list(SMUGGLING).index(name)}"

    statuses = exchange(stack, SMUGGLING[name].replace(b"hidden", hidden.encode()))

    # At most what nginx itself saw as two requests, one after the other; then both were its to answer, and it said so:
    # to us, or where that came late to its log.
    seen = written(stack).count(hidden)
    assert len(statuses) <= 2
    assert seen == 0 or name not in NO_SECOND_REQUEST
    if seen > max(0, len(statuses) - 1):
        eventually(lambda: ids(stack.nginx).count(hidden) >= seen, because="nginx saw it too")
    assert all(status in (200, 400, 404, 405, 411, 413, 414, 415, 431, 501, 505) for status in statuses), statuses
    # What desynchronisation is for: bytes left over on a connection to the replica begin the next one's request.
    for number in range(4):
        request_id = f"mine-{number}"
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", stack.nginx.port, timeout=15)) as connection:
            headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
            connection.request("POST", "/predict", BODY, headers)
            reply = connection.getresponse()
            assert (reply.status, reply.headers["X-Request-Id"]) == (200, request_id)
            assert json.load(reply)["label"] == "Adelie"
    assert "f" * 32 not in ids(stack.replicas[0])


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_is_refused_or_answered(stack: Stack, name: str) -> None:
    statuses = exchange(stack, TOO_MUCH[name])

    assert len(statuses) <= 1
    assert set(statuses) <= {200, 400, 413, 414, 431}, statuses


def test_pipelined_requests_are_answered_one_by_one(stack: Stack) -> None:
    assert answers(stack, GOOD * 199 + LAST) == [200] * 200
    nowhere = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    assert answers(stack, (GOOD + nowhere) * 20 + LAST) == [200, 404] * 20 + [200]
    assert answers(stack, GOOD * 3 + b"nonsense\r\n\r\n") == [200, 200, 200, 400]


def test_half_requests_are_given_up(stack: Stack) -> None:
    """All at once, so that they are waited for once: the longest of nginx's waits for a client, and some."""
    started = time.monotonic()
    with contextlib.ExitStack() as held_open:
        connections = {}
        for name, half in HALF.items():
            for number in range(20):
                connection = held_open.enter_context(connect(stack))
                connection.sendall(half)
                connections[name, number] = connection
        assert answers(stack, LAST) == [200]  # meanwhile
        for connection in connections.values():
            answer = b""
            with contextlib.suppress(ConnectionResetError):  # reset_timedout_connection
                while more := connection.recv(65536):
                    answer += more
            assert re.findall(rb"HTTP/1\.1 ([2-5]\d\d)", answer) in ([], [b"400"], [b"408"])
    assert time.monotonic() - started < 30


def test_clients_that_leave_in_the_middle_leave_nothing(stack: Stack) -> None:
    for half in HALF.values():
        for _ in range(20):
            with connect(stack) as connection:
                connection.sendall(half)
    for _ in range(200):  # after all of it, and before the answer
        with connect(stack) as connection:
            connection.sendall(GOOD)
