"""nginx by itself: what it refuses, and how it says so. No replica is there, which is one of the things it must say."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import random
import re
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from tests.certificate import certify_localhost
from tests.servers import ROOT, Nginx, eventually, free_ports


@pytest.fixture(scope="module")
def nginx(folders: Callable[[], Path]) -> Iterator[Nginx]:
    server = Nginx(folders(), [f"127.0.0.1:{port}" for port in free_ports(2)])
    server.start()
    yield server
    server.close()


class Reply:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def problem(self) -> str:
        """The name of the problem; the body must be one, and agree with the reply around it."""
        assert self.headers["Content-Type"] == "application/problem+json"
        problem = json.loads(self.body)
        assert problem.keys() == {"type", "title", "status", "detail", "request_id"}
        assert problem["status"] == self.status
        assert problem["request_id"] == self.headers["X-Request-Id"]
        assert problem["type"].startswith("urn:shoal:problem:")
        return str(problem["type"].removeprefix("urn:shoal:problem:"))


def ask(server: Nginx, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return Reply(connection.getresponse())
    finally:
        connection.close()


def ask_raw(server: Nginx, request: bytes) -> Reply:
    """For requests that no client library would send."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Reply(response)


def access_log_line(server: Nginx, request_id: str) -> dict[str, Any]:
    def line() -> dict[str, Any] | None:
        lines = (json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{"))
        return next((line for line in lines if line["request_id"] == request_id), None)

    found = eventually(line, because=f"the access log has {request_id}")
    assert found is not None
    return found


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/x/../metrics",
        "/metrics?a=b",
        "/admin",
        "/admin/x",
        "/models/penguins/routing",
        "/models/penguins/rollback/",
    ],
)
def test_what_is_for_those_inside_is_not_there(nginx: Nginx, path: str) -> None:
    reply = ask(nginx, "GET", path)
    assert (reply.status, reply.problem) == (404, "not-found")


def test_without_a_replica_the_answer_is_a_problem_to_come_back_with(nginx: Nginx) -> None:
    reply = ask(nginx, "POST", "/predict", b"{}")
    assert (reply.status, reply.problem) == (502, "no-replica")
    assert reply.headers.get_all("Retry-After") == ["1"]


@pytest.fixture(params=["least_conn", "hash"])
def without_replicas(request: pytest.FixtureRequest, nginx: Nginx, folders: Callable[[], Path]) -> Iterator[Nginx]:
    """nginx before two replicas that are not there."""
    if request.param == "least_conn":
        yield nginx
        return
    server = Nginx(folders(), [f"127.0.0.1:{port}" for port in free_ports(2)], NGINX_BALANCE=request.param)
    server.start()
    yield server
    server.close()


def test_replicas_are_tried_again_and_again_while_all_of_them_fail(without_replicas: Nginx) -> None:
    # With max_fails alone, nginx would mark both and then answer without trying any, for seconds after they are back.
    nginx = without_replicas
    ids = [f"try-{number}" for number in range(6)]
    for request_id in ids:
        ask(nginx, "POST", "/predict", b"{}", X_Request_Id=request_id)
    for request_id in ids:
        tried = re.split(", | : ", access_log_line(nginx, request_id)["upstream"])
        assert len({upstream for upstream in tried if upstream.startswith("127.0.0.1:")}) == 2


@contextmanager
def before_a_socket(folder: Path, **env: str) -> Iterator[tuple[Nginx, socket.socket]]:
    """nginx, and the socket that it takes for its replica."""
    with socket.create_server(("127.0.0.1", 0)) as replica:
        replica.settimeout(10)
        server = Nginx(folder, [f"127.0.0.1:{replica.getsockname()[1]}"], **env)
        server.start()
        try:
            yield server, replica
        finally:
            server.close()


def values(header: str, name: str) -> list[str]:
    """Of one field in the header of a request."""
    return re.findall(rf"^{name}: (.*)\r$", header, re.MULTILINE)


def test_a_request_that_is_sent_again_makes_the_same_row(folders: Callable[[], Path]) -> None:
    """One replica that hangs up twice, on it and on its twin among the backups: the third time is a new attempt."""
    with (
        before_a_socket(folders()) as (server, replica),
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: shoal\r\nContent-Length: 2\r\n\r\n{}")
        seen = []
        for attempt in range(3):
            connection, _ = replica.accept()
            with connection:
                request = connection.recv(65536).decode()
                seen.append(re.findall(r"^(X-Shoal-(?:Time|Id): \S+)", request, re.MULTILINE))
                assert request.endswith("\r\n\r\n{}")
                time.sleep(0.02)  # the clock goes on, and the time of the request must not
                if attempt == 2:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 200

    assert len(seen[0]) == 2
    assert seen[0] == seen[1] == seen[2]


def test_the_time_of_a_request_is_that_of_its_header(folders: Callable[[], Path]) -> None:
    with (
        before_a_socket(folders()) as (server, replica),
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as client,
    ):
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: shoal\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 100")  # nginx has the header, and waits for the body
        before_the_body = time.time()
        time.sleep(0.05)  # the clock goes on
        client.sendall(b"{}")
        with replica.accept()[0] as connection:
            [taken] = values(connection.recv(65536).decode(), "X-Shoal-Time")

    assert before_the_body - 10 < float(taken) <= before_the_body


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_replica_is_told_what_the_client_asked_for(folders: Callable[[], Path], scheme: str) -> None:
    folder = folders()
    trusting, tls = certified(folder)
    with (
        before_a_socket(folder, **tls) as (server, replica),
        ExitStack() as stack,
    ):
        port = server.port if scheme == "http" else int(tls["NGINX_TLS_LISTEN"].split(":")[1])
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        if scheme == "https":
            client = stack.enter_context(trusting.wrap_socket(client, server_hostname="localhost"))
        client.sendall(b"GET /docs HTTP/1.1\r\nHost: shoal.example:8443\r\nX-Forwarded-Proto: gopher\r\n\r\n")
        with replica.accept()[0] as connection:
            header = connection.recv(65536).decode()

    assert values(header, "Host") == ["shoal.example:8443"]
    assert values(header, "X-Forwarded-Proto") == [scheme]


def test_a_body_over_the_limit_is_refused(nginx: Nginx) -> None:
    limit = 8 * 1024 * 1024
    reply = ask_raw(nginx, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (limit + 1))
    assert (reply.status, reply.problem) == (413, "body-too-large")
    assert ask(nginx, "POST", "/predict", bytes(limit)).status == 502  # at the limit, it went on to find a replica


@pytest.mark.parametrize(
    ("request_bytes", "status", "problem"),
    [
        (b"GARBAGE\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nLong: %s\r\n\r\n" % (b"a" * 40_000), 400, "bad-request"),
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 40_000), 414, "bad-request"),
        (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505, "bad-request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "bad-request"),
        # What a replica's parser would refuse too, but as plain text.
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad-request"),
        (b"GET /docs?\x80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad-request"),
        (b"GET /docs?\x7f HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad-request"),
        (b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad-request"),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method-not-allowed"),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method-not-allowed"),
    ],
)
def test_what_is_no_request_is_a_problem_too(nginx: Nginx, request_bytes: bytes, status: int, problem: str) -> None:
    reply = ask_raw(nginx, request_bytes)
    assert (reply.status, reply.problem) == (status, problem)
    assert (reply.headers["Allow"] is not None) == (status == 405)


@pytest.mark.parametrize("sent", ["a", "A.b_c~d-9", "x" * 128])
def test_a_request_id_of_the_client_is_kept(nginx: Nginx, sent: str) -> None:
    assert ask(nginx, "GET", "/metrics", X_Request_Id=sent).headers.get_all("X-Request-Id") == [sent]


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", 'a"b', "a\\b", "ä"])
def test_what_is_no_request_id_is_replaced(nginx: Nginx, sent: str) -> None:
    [made] = ask(nginx, "GET", "/metrics", X_Request_Id=sent).headers.get_all("X-Request-Id") or []
    assert re.fullmatch("[0-9a-f]{32}", made)


def test_replies_say_neither_the_version_nor_let_themselves_be_framed(nginx: Nginx) -> None:
    headers = ask(nginx, "GET", "/metrics").headers
    assert headers["Server"] == "nginx"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"


def test_the_access_log_has_a_line_of_json_for_each_request(nginx: Nginx) -> None:
    ask(nginx, "POST", '/predict?secret=1&quote="', b"{}", X_Request_Id="find-me", User_Agent='a "quoted" agent')

    found = access_log_line(nginx, "find-me")
    assert (found["method"], found["path"], found["status"]) == ("POST", "/predict", 502)
    assert found["user_agent"] == 'a "quoted" agent'
    assert isinstance(found["seconds"], float)
    once, again = found["upstream"].split(" : ")
    assert len(once.split(", ")) == 3  # proxy_next_upstream_tries
    assert len(again.split(", ")) <= 3
    assert "secret" not in json.dumps(found)


def test_the_access_log_is_utf_8_whatever_was_sent(nginx: Nginx) -> None:
    ask_raw(nginx, b"GET /a\xff HTTP/1.1\r\nHost: x\r\nUser-Agent: \xe4\r\nX-Request-Id: bytes\r\n\r\n")

    found = access_log_line(nginx, "bytes")
    assert (found["path"], found["user_agent"]) == ("", "")


def test_more_requests_than_the_limit_are_told_when_to_come_back(folders: Callable[[], Path]) -> None:
    server = Nginx(folders(), ["127.0.0.1:1"], NGINX_RATE_LIMIT="1r/m", NGINX_RATE_BURST="2")
    server.start()  # which takes a request or more of the three
    try:
        reply = eventually(lambda: (got := ask(server, "POST", "/predict", b"{}")).status == 429 and got)
        assert reply
        assert reply.problem == "too-many-requests"
        assert reply.headers.get_all("Retry-After") == ["1"]
    finally:
        server.close()


def test_more_requests_at_once_than_the_limit_are_refused_until_others_have_ended(folders: Callable[[], Path]) -> None:
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        silent.settimeout(10)
        server = Nginx(folders(), [f"127.0.0.1:{silent.getsockname()[1]}"], NGINX_MAX_REQUESTS="2")
        stack.callback(server.close)
        server.start()

        def come() -> socket.socket:
            """Until the replica, which says nothing, has the request."""
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(request)
            stack.enter_context(silent.accept()[0])
            return client

        clients = [come(), come()]
        reply = ask(server, "GET", "/models")
        assert (reply.status, reply.problem) == (429, "too-many-requests")
        assert reply.headers.get_all("Retry-After") == ["1"]

        clients[0].close()
        silent.settimeout(1)
        eventually(come, because="there is room again")


def certified(folder: Path) -> tuple[ssl.SSLContext, dict[str, str]]:
    """A client that trusts the certificate made in that folder, and what tells nginx to use it on a port of its own."""
    folder.mkdir(parents=True)
    certificate, key = certify_localhost(folder)
    [port] = free_ports()
    return ssl.create_default_context(cafile=str(certificate)), {
        "NGINX_TLS_LISTEN": f"127.0.0.1:{port}",
        "NGINX_TLS_CERTIFICATE": str(certificate),
        "NGINX_TLS_KEY": str(key),
    }


@pytest.mark.parametrize(
    "env",
    [
        {},  # compose's own, where the name of the replicas is looked up again and again
        {"NGINX_UPSTREAMS": "127.0.0.1:1, 127.0.0.1:2", "NGINX_LISTEN": "127.0.0.1:8080", "NGINX_WORKERS": "1"},
        {"NGINX_BALANCE": "hash"},
        {"NGINX_RATE_LIMIT": "60r/m", "NGINX_RATE_BURST": "1", "NGINX_RESOLVER": "10.0.0.1"},
    ],
)
def test_the_configuration_is_one_that_nginx_accepts(tmp_path: Path, env: dict[str, str]) -> None:
    checked = subprocess.run(
        [ROOT / "nginx" / "start", "-t"],
        env={**os.environ, "VENV": sys.prefix, "VAR": str(tmp_path), **env},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr
    rendered = "\n".join(path.read_text() for path in tmp_path.rglob("*.conf"))
    assert re.findall(r"^[^#\n]*\$\{.*", rendered, re.MULTILINE) == []


# --- which replica ----------------------------------------------------------------------------------------------------
class SayAddress(http.server.BaseHTTPRequestHandler):
    """Answers whatever it is asked with the address that was asked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = str(self.connection.getsockname()[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # when the server is gone, nothing of it is left
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815 - http.server's name for it

    def log_message(self, *_: object) -> None:
        return


class Named(http.server.ThreadingHTTPServer):
    """In a replica's place."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, SayAddress)


class Names(socketserver.ThreadingUDPServer):
    """Docker's DNS: gives the addresses of all replicas for one name, in an order of its own each time."""

    daemon_threads = True

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        super().__init__(("127.0.0.1", 0), self.Answer)

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            assert isinstance(self.server, Names)
            query, sender = cast(tuple[bytes, socket.socket], self.request)
            question = query[12 : query.index(b"\0", 12) + 5]
            addresses = random.sample(self.server.addresses, len(self.server.addresses))
            header = bytes(query[:2]) + b"\x81\x80" + struct.pack(">HHHH", 1, len(addresses), 0, 0)
            answers = (
                b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 1, 4) + socket.inet_aton(address) for address in addresses
            )
            sender.sendto(header + question + b"".join(answers), self.client_address)


@pytest.fixture
def hashing(folders: Callable[[], Path]) -> Iterator[tuple[Nginx, dict[str, Named]]]:
    """nginx with NGINX_BALANCE=hash before three replicas that share a name, as in compose; and those, by address."""
    [port] = free_ports()
    addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    with ExitStack() as stack:
        replicas = {address: stack.enter_context(Named((address, port))) for address in addresses}
        names = stack.enter_context(Names(addresses))
        for server in (names, *replicas.values()):
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        nginx = Nginx(
            folders(),
            [f"api.test:{port} resolve"],
            NGINX_RESOLVER=f"127.0.0.1:{names.server_address[1]}",
            NGINX_BALANCE="hash",
        )
        stack.callback(nginx.close)
        nginx.start()
        eventually(lambda: ask(nginx, "POST", "/predict", b"{}").status == 200, because="the name is known")
        yield nginx, replicas


def taken_by(nginx: Nginx, body: bytes | None, method: str = "POST") -> str:
    reply = ask(nginx, method, "/predict", body)
    assert reply.status == 200
    return reply.body.decode()


def test_equal_bodies_meet_in_one_replica_and_others_spread(hashing: tuple[Nginx, dict[str, Named]]) -> None:
    nginx, replicas = hashing
    bodies = [b'{"features": [%d.0]}' % number for number in range(60)] + [bytes(1000 * 1024)]
    first = [taken_by(nginx, body) for body in bodies]

    assert [taken_by(nginx, body) for body in bodies] == first
    assert set(first) == set(replicas)


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b""), ("POST", bytes(1280 * 1024))])
def test_what_has_no_body_at_hand_goes_anywhere(
    hashing: tuple[Nginx, dict[str, Named]], method: str, body: bytes | None
) -> None:
    nginx, replicas = hashing

    eventually(lambda seen=set(): seen.add(taken_by(nginx, body, method)) or seen == set(replicas))  # type: ignore[misc]


def test_only_the_bodies_of_a_replica_that_is_gone_go_elsewhere(hashing: tuple[Nginx, dict[str, Named]]) -> None:
    nginx, replicas = hashing
    bodies = [b'{"features": [%d.0]}' % number for number in range(60)]
    before = [taken_by(nginx, body) for body in bodies]

    replicas["127.0.0.2"].shutdown()
    replicas["127.0.0.2"].server_close()

    after = [taken_by(nginx, body) for body in bodies]
    assert all(new == old for new, old in zip(after, before, strict=True) if old != "127.0.0.2")
    assert set(after) == {"127.0.0.1", "127.0.0.3"}


def test_a_balance_that_there_is_not_is_refused(tmp_path: Path) -> None:
    refused = subprocess.run(
        [ROOT / "nginx" / "start", "-t"],
        env={**os.environ, "VENV": sys.prefix, "VAR": str(tmp_path), "NGINX_BALANCE": "random"},
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    assert "expected least_conn or hash, got 'random'" in refused.stderr
