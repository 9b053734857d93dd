"""Callbacks go to the internet, signed as others check it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress

import pytest

from api.errors import InvalidParameters
from api.jobs.callbacks import CallbackPolicy
from api.jobs.courier import sign, signing_key

STRICT = CallbackPolicy(can_sign=True, to_private_addresses=False)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "2002:7f00:1::", "64:ff9b::a00:1", "192.0.2.1", "198.18.0.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_of_the_internet_are_refused(address: str) -> None:
    assert not STRICT.allows(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(InvalidParameters, match="expected an address of the internet"):
        STRICT.check(f"http://{host}/hook")
    CallbackPolicy(can_sign=True, to_private_addresses=True).check(f"http://{host}/hook")


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_addresses_of_the_internet_are_not(address: str) -> None:
    assert STRICT.allows(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "example.com", "https://", "http://name:word@example.com/", "https://example.com:0/",
        "https://example.com:99999/", "https://exa mple.com/", "https://example.com/\r\nHost: x", "https://exämple.com/",
        "https://[::1", "https://example.com/" + "x" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_address_to_post_to_is_refused(url: str) -> None:
    with pytest.raises(InvalidParameters, match="callback_url"):
        STRICT.check(url)


def test_without_a_key_there_are_no_callbacks() -> None:
    with pytest.raises(InvalidParameters, match="SHOAL_CALLBACK_SECRET"):
        CallbackPolicy(can_sign=False, to_private_addresses=False).check("https://example.com/")


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # The example of https://www.standardwebhooks.com, whose secret is base64 after its prefix.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    assert (
        sign(signing_key(secret), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_a_secret_may_be_any_text() -> None:
    expected = hmac.new(b"a text of some length", b"id.1.body", hashlib.sha256).digest()
    assert sign(signing_key("a text of some length"), "id", 1, b"body") == f"v1,{base64.b64encode(expected).decode()}"
