"""What is believed of a request's headers, and what is not."""

from __future__ import annotations

import time

import pytest

from api.context import RequestContext

HEX = b"0123456789abcdef" * 2


def context(**headers: bytes) -> RequestContext:
    return RequestContext("GET", "/predictions", [(name.replace("_", "-").encode(), headers[name]) for name in headers])


def test_nginx_names_the_request_and_its_time() -> None:
    then = time.time() - 0.25

    request = context(x_request_id=b"mine", x_shoal_id=HEX, x_shoal_time=f"{then:.3f}".encode())

    assert request.request_id == "mine"
    assert request.seed == bytes.fromhex(HEX.decode())
    assert request.unix_ms == int(f"{then:.3f}".replace(".", ""))
    assert request.proxy_seconds is not None
    assert 0.2 < request.proxy_seconds < 60


@pytest.mark.parametrize("name", [b"", b"with space", b"a" * 129, b"\xff", b'"quoted"', b"new\nline"])
def test_what_is_no_request_id_is_replaced_by_our_own(name: bytes) -> None:
    assert context(x_request_id=name, x_shoal_id=HEX).request_id == HEX.decode()


@pytest.mark.parametrize("moment", [b"", b"soon", b"1.5", b"-1.000", b"9999999999.000", b"0000000000.000"])
def test_what_is_no_time_is_replaced_by_our_own(moment: bytes) -> None:
    request = context(x_shoal_time=moment)

    assert abs(request.unix_ms - time.time() * 1000) < 60_000
    assert request.proxy_seconds is None


def test_requests_without_nginx_have_seeds_of_their_own() -> None:
    assert context().seed != context().seed
    assert len(context(x_shoal_id=b"XYZ").seed) == 16


def test_a_log_line_holds_no_query_and_no_header() -> None:
    request = context(authorization=b"Bearer secret", x_shoal_id=HEX)
    request.status = 200

    line = request.line(0.01)

    assert "secret" not in str(line)
    assert line["request_id"] == HEX.decode()
