"""API keys through nginx: what it counts, what it hands on, and that no key is ever written down."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from api.access.keys import add_key, read_keys, revoke_keys
from tests.servers import eventually
from tests.stack import Stack
from tests.system.test_nginx import Reply, before_a_socket, values

ROW = b'{"features":[39.1,18.7,181]}'
BURST = 20


class Keyed(NamedTuple):
    stack: Stack
    keys_file: Path


@pytest.fixture(scope="module")
def keyed(folders: Callable[[], Path]) -> Iterator[Keyed]:
    """A stack that asks for keys, each good for so many requests that none of these tests runs out by itself."""
    folder = folders()
    folder.mkdir(parents=True)
    keys_file = folder / "keys"
    keys_file.touch()
    stack = Stack(folder, SHOAL_KEYS_FILE=str(keys_file), NGINX_KEY_RATE_LIMIT="1r/m", NGINX_KEY_RATE_BURST=str(BURST))
    try:
        stack.start()
        yield Keyed(stack, keys_file)
    finally:
        stack.close()


@pytest.fixture
def key(keyed: Keyed, request: pytest.FixtureRequest) -> str:
    return new_key(keyed, request.node.name.replace("[", "-").replace("]", "")[:64])


def new_key(keyed: Keyed, name: str) -> str:
    """One that every replica knows."""
    key = add_key(keyed.keys_file, name)
    for replica in keyed.stack.replicas:  # not through nginx, which would count it
        eventually(lambda port=replica.port: ask(port, "GET", "/models", X_API_Key=key).status == 200)  # type: ignore[misc]
    return key


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
    fields = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, body, fields)
        return Reply(connection.getresponse())


def predict(keyed: Keyed, **headers: str) -> Reply:
    return ask(keyed.stack.nginx.port, "POST", "/predict", ROW, **headers)


def raw(keyed: Keyed, *lines: bytes) -> int:
    """The status of a prediction with these lines in its header, byte by byte."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(ROW)
    with socket.create_connection(("127.0.0.1", keyed.stack.nginx.port), timeout=10) as connection:
        connection.sendall(head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + ROW)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status


def test_a_key_is_asked_for_and_admits(keyed: Keyed, key: str) -> None:
    for headers in ({}, {"X_API_Key": key[:-1]}, {"X_API_Key": "short"}, {"Authorization": f"Basic {key}"}):
        reply = predict(keyed, **headers)
        assert (reply.status, reply.problem) == (401, "key-required")
        assert reply.headers["WWW-Authenticate"] == 'Bearer realm="shoal"'
    assert predict(keyed, X_API_Key=key).status == 200
    assert predict(keyed, Authorization=f"Bearer {key}").status == 200
    for path in ("/health/ready", "/health/live"):
        assert ask(keyed.stack.nginx.port, "GET", path).status == 200


def test_no_key_and_no_token_opens_what_is_for_those_inside(keyed: Keyed, key: str) -> None:
    token = (keyed.stack.replicas[0].folder / "admin_token").read_text().strip()
    for path in ("/metrics", "/admin/cache/flush", "/models/penguins/routing"):
        for secret in (key, token):
            reply = ask(keyed.stack.nginx.port, "POST", path, b'{"model":"penguins"}', X_API_Key=secret)
            assert (reply.status, reply.problem) == (404, "not-found")


def test_a_key_is_limited_by_itself_from_wherever_it_comes(keyed: Keyed, key: str) -> None:
    other = new_key(keyed, "other")
    statuses = [predict(keyed, X_API_Key=key).status for _ in range(BURST + 5)]
    refused = predict(keyed, Authorization=f"Bearer {key}")

    assert statuses[:BURST] == [200] * BURST
    assert 429 in statuses
    assert (refused.status, refused.problem) == (429, "too-many-requests")
    assert "with your key than 1r/m" in json.loads(refused.body)["detail"]
    assert refused.headers["Retry-After"] == "1"
    assert predict(keyed, X_API_Key=other).status == 200


def test_there_is_no_spelling_of_a_key_that_is_admitted_and_not_counted(keyed: Keyed, key: str) -> None:
    secret = key.encode()
    spellings = [
        (b"X-API-Key: \t" + secret,),
        (b"X-API-Key: " + secret + b"\t",),
        (b"X-API-Key:" + secret,),
        (b"x-api-key:  " + secret + b"  ",),
        (b"X_API_Key: " + secret,),
        (b"X-API-Key: " + secret, b"X-API-Key: " + secret),
        (b"X-API-Key: junk", b"X-API-Key: " + secret),
        (b"X-API-Key: junk", b"Authorization: Bearer " + secret),
        (b"X-API-Key: ", b"Authorization: Bearer " + secret),
        (b"Authorization: Bearer junk", b"X-API-Key: " + secret),
        (b"Authorization: Bearer " + secret, b"Authorization: Bearer " + secret),
        (b"Authorization: Bearer junk", b"Authorization: Bearer " + secret),
        (b"Authorization: bEARER  " + secret,),
        (b"Authorization: Bearer \t" + secret,),
        (b"Authorization: Bearer\t" + secret,),
        (b"Authorization:\tBearer " + secret,),
        (b"Authorization: Bearer " + secret + b",",),
        (b"Authorization: Bearer " + secret, b"Connection: authorization"),
        (b"X-API-Key: " + secret, b"Connection: x-api-key"),
    ]
    eventually(lambda: predict(keyed, X_API_Key=key).status == 429, because="the key is used up")

    statuses = {spelling: raw(keyed, *spelling) for spelling in spellings}

    assert {spelling for spelling, status in statuses.items() if status not in (400, 401, 429)} == set()
    assert 429 in statuses.values()


def test_a_replica_is_shown_the_key_that_was_counted_and_nothing_else(folders: Callable[[], Path]) -> None:
    key = "shoal_" + "k" * 43
    with before_a_socket(folders()) as (server, replica):
        for sent, shown in (
            (f"X-API-Key: {key}", [key]),
            (f"Authorization: Bearer {key}", [key]),
            (f"X-API-Key: {key}\r\nAuthorization: Bearer {key[:-1]}j", [key]),
            ("X-API-Key: secret-of-another-system", ["none-that-is-one"]),
            ("Authorization: Basic dXNlcjpwYXNz", ["none-that-is-one"]),
            ("Accept: */*", []),
        ):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
                client.sendall(f"GET /models HTTP/1.1\r\nHost: x\r\n{sent}\r\n\r\n".encode())
                with replica.accept()[0] as connection:
                    header = connection.recv(65536).decode()
                    connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 204"
            assert values(header, "X-API-Key") == shown, header
            assert "uthorization" not in header


def test_a_key_is_replaced_under_load_and_nobody_is_refused(keyed: Keyed) -> None:
    """The old and the new one are both good until the old one is revoked. At a replica: nginx limits keys here."""
    port = keyed.stack.replicas[0].port
    current = [add_key(keyed.keys_file, "rotated")]
    eventually(lambda: ask(port, "POST", "/predict", ROW, X_API_Key=current[0]).status == 200)
    statuses: list[int] = []
    over = threading.Event()

    def caller() -> None:
        while not over.is_set():
            statuses.append(ask(port, "POST", "/predict", ROW, X_API_Key=current[-1]).status)

    thread = threading.Thread(target=caller)
    thread.start()
    try:
        old = next(key.id for key in read_keys(keyed.keys_file) if key.name == "rotated")
        new = add_key(keyed.keys_file, "rotated")
        eventually(lambda: ask(port, "POST", "/predict", ROW, X_API_Key=new).status == 200)
        current.append(new)
        before = len(statuses)
        eventually(lambda: len(statuses) > before + 1, because="the caller has taken the new key")
        assert revoke_keys(keyed.keys_file, "rotated", old) == 1
        eventually(lambda: ask(port, "POST", "/predict", ROW, X_API_Key=current[0]).status == 401)
    finally:
        over.set()
        thread.join()
    assert set(statuses) == {200}


def test_no_key_is_written_down_anywhere(keyed: Keyed, key: str) -> None:
    stack = keyed.stack
    token = (stack.replicas[0].folder / "admin_token").read_text().strip()
    replies = [
        predict(keyed, X_API_Key=key),
        predict(keyed, Authorization=f"Bearer {key}", Content_Type="text/plain"),
        predict(keyed, X_API_Key=key, X_Request_Id=f'"{key}"'),
        ask(stack.nginx.port, "GET", "/openapi.json", X_API_Key=key),
        ask(stack.nginx.port, "GET", "/predictions", X_API_Key=key),
        ask(stack.nginx.port, "GET", f"/nowhere?key={key}", X_API_Key=key),
    ]
    for replica in stack.replicas:
        replies.append(ask(replica.port, "GET", "/metrics"))
        replies.append(ask(replica.port, "POST", "/admin/cache/flush", b'{"model":"penguins"}', X_API_Key=token))
        replies.append(ask(replica.port, "POST", "/admin/cache/flush", b"{", X_API_Key=key))
    with ExitStack() as held:
        connection = held.enter_context(psycopg.connect(stack.postgres.dsn))
        rows = str(connection.execute("SELECT * FROM predictions").fetchall())
        redis = held.enter_context(stack.redis.client())
        values = b"".join(key + (redis.get(key) or b"") for key in redis.keys("*"))
    name = "test_no_key_is_written_down_anywhere"
    eventually(lambda: all(name in server.log.read_text() for server in stack.replicas), because="its lines are there")

    for secret in (key, token, stack_hash(keyed, name)):
        for reply in replies:
            assert secret not in reply.body.decode() + str(reply.headers)
        for server in stack.servers:
            assert secret not in server.log.read_text(errors="replace")
        assert secret not in rows
        assert secret.encode() not in values
    assert f'key="{name}"' in replies[-3].body.decode()


def stack_hash(keyed: Keyed, name: str) -> str:
    [line] = [line for line in keyed.keys_file.read_text().splitlines() if line.startswith(name)]
    return line.split()[1]
