"""Who is let through, and when the gate learns of a change."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from api.access.admin_token import make_token, read_token
from api.access.gate import Gate
from api.access.keys import add_key, revoke_keys
from api.context import RequestContext
from api.errors import AdminOnly, KeyRequired, ServingError


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "admin_token"


def verdict(gate: Gate, path: str = "/predict", **headers: str) -> str | type[ServingError]:
    """The name that it is admitted under, or why it is not."""
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    context = RequestContext("POST", path, fields)
    try:
        gate.check(context)
    except ServingError as error:
        return type(error)
    return context.key


def test_nobody_is_asked_for_a_key_where_there_is_no_file_of_them(token_file: Path) -> None:
    gate = Gate(keys_file=None, admin_token_file=token_file)

    assert not gate.asks
    assert verdict(gate) == ""
    assert verdict(gate, x_api_key="anything") == ""


def test_a_key_may_come_in_either_header(keys_file: Path, token_file: Path) -> None:
    alice, bob = add_key(keys_file, "alice"), add_key(keys_file, "bob")
    gate = Gate(keys_file=keys_file, admin_token_file=token_file)

    for _ in range(2):  # the second time it is remembered
        assert verdict(gate, authorization=f"Bearer {alice}") == "alice"
        assert verdict(gate, authorization=f"bearer   {alice} ") == "alice"
        assert verdict(gate, x_api_key=bob) == "bob"


def test_what_is_no_known_key_is_refused(keys_file: Path, token_file: Path) -> None:
    alice = add_key(keys_file, "alice")
    gate = Gate(keys_file=keys_file, admin_token_file=token_file)
    [digest] = [line.split()[1] for line in keys_file.read_text().splitlines() if line[0] != "#"]

    for headers in (
        {},
        {"x_api_key": ""},
        {"x_api_key": alice[:-1]},
        {"x_api_key": alice + "A"},
        {"x_api_key": alice.lower()},
        {"x_api_key": f"{alice}, {alice}"},  # what nginx makes of the same header twice
        {"x_api_key": digest},
        {"x_api_key": "alice"},
        {"authorization": alice},
        {"authorization": f"Basic {alice}"},
        {"authorization": f"Bearer{alice}"},
        {"x_api_key": "wrong", "authorization": f"Bearer {alice}"},
    ):
        assert verdict(gate, **headers) is KeyRequired, headers


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
def test_probes_and_prometheus_need_no_key(keys_file: Path, token_file: Path, path: str) -> None:
    gate = Gate(keys_file=keys_file, admin_token_file=token_file)

    assert verdict(gate, path) == ""
    assert verdict(gate, path + "/") is KeyRequired


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize(
    "path", ["/admin", "/admin/", "/admin/cache/flush", "/admin\n", "/models/a/routing", "/models/a/rollback/"]
)
def test_admin_routes_need_the_token_and_nothing_else_will_do(
    keys_file: Path, token_file: Path, path: str, asks: bool
) -> None:
    alice = add_key(keys_file, "alice")
    gate = Gate(keys_file=keys_file if asks else None, admin_token_file=token_file)
    token = read_token(token_file)

    assert verdict(gate, path, authorization=f"Bearer {token}") == verdict(gate, path, x_api_key=token) == "admin"
    assert verdict(gate, path) is KeyRequired
    assert verdict(gate, path, x_api_key=token + "x") is KeyRequired
    assert verdict(gate, path, x_api_key=alice) is (AdminOnly if asks else KeyRequired)
    if asks:
        assert verdict(gate, "/predict", x_api_key=token) is KeyRequired


def test_keys_come_and_go_without_a_restart(keys_file: Path, token_file: Path) -> None:
    alice = add_key(keys_file, "alice")
    gate = Gate(keys_file=keys_file, admin_token_file=token_file)
    assert verdict(gate, x_api_key=alice) == "alice"

    new = add_key(keys_file, "alice")
    gate.refresh()
    assert verdict(gate, x_api_key=new) == verdict(gate, x_api_key=alice) == "alice"

    revoke_keys(keys_file, "alice")
    gate.refresh()
    assert verdict(gate, x_api_key=new) is verdict(gate, x_api_key=alice) is KeyRequired


def test_keys_that_cannot_be_read_stay_as_they_were(
    keys_file: Path, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alice = add_key(keys_file, "alice")
    gate = Gate(keys_file=keys_file, admin_token_file=token_file)
    good = keys_file.read_text()

    for breaking in (lambda: keys_file.write_text(good + "half a li"), keys_file.unlink):
        breaking()
        for _ in range(2):
            gate.refresh()
        assert verdict(gate, x_api_key=alice) == "alice"
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2  # once a change

    keys_file.write_text("")
    gate.refresh()
    assert verdict(gate, x_api_key=alice) is KeyRequired


def test_a_file_that_is_not_there_at_the_start_lets_nobody_in_until_it_is(keys_file: Path, token_file: Path) -> None:
    gate = Gate(keys_file=keys_file, admin_token_file=token_file)
    assert verdict(gate, x_api_key="") is KeyRequired

    alice = add_key(keys_file, "alice")
    gate.refresh()

    assert verdict(gate, x_api_key=alice) == "alice"


def test_the_admin_token_is_made_once_for_its_owner_only(token_file: Path) -> None:
    assert make_token(token_file)
    token = read_token(token_file)

    assert not make_token(token_file)
    assert read_token(token_file) == token
    assert len(token) >= 40
    assert token_file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in token_file.parent.iterdir()] == ["admin_token"]


@pytest.mark.parametrize("content", ["", "\n", "short", "two words of which each would do", "é" * 30])
def test_what_is_no_token_opens_nothing(token_file: Path, content: str) -> None:
    gate = Gate(keys_file=None, admin_token_file=token_file)
    token = read_token(token_file)
    token_file.write_text(content)
    gate.refresh()

    for guess in (token, content.strip() or "x", "x"):
        assert verdict(gate, "/admin/x", x_api_key=guess) is KeyRequired


def test_a_token_that_cannot_be_made_closes_the_admin_routes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    gate = Gate(keys_file=None, admin_token_file=tmp_path / "file" / "admin_token")

    assert verdict(gate) == ""
    assert verdict(gate, "/admin/x", x_api_key="x") is KeyRequired
