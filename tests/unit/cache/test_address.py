"""Every URL that redis-py reads leads where it says."""

from __future__ import annotations

import ssl

import pytest

from api.cache.address import Address
from api.cache.commands import pack


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "greeting"),
    [
        ("redis://cache:6380/2", "cache", 6380, None, [("SELECT", 2)]),
        ("redis://cache", "cache", 6379, None, []),
        ("redis://:secret@cache/0", "cache", 6379, None, [("AUTH", "secret")]),
        ("redis://me:se%20cret@[::1]/1", "::1", 6379, None, [("AUTH", "me", "se cret"), ("SELECT", 1)]),
        ("unix:///run/redis.sock?db=3", "localhost", 6379, "/run/redis.sock", [("SELECT", 3)]),
    ],
)
def test_where_it_is_and_how_one_gets_in(
    url: str, host: str, port: int, path: str | None, greeting: list[tuple[str | int, ...]]
) -> None:
    address = Address.parse(url)

    assert (address.host, address.port, address.path, address.tls) == (host, port, path, None)
    assert list(address.greeting) == [pack(*command) for command in greeting]


def test_a_password_beside_the_url_is_for_urls_without_one() -> None:
    assert Address.parse("redis://me@cache", password="a").greeting == (pack("AUTH", "me", "a"),)
    assert Address.parse("redis://me:b@cache", password="a").greeting == (pack("AUTH", "me", "b"),)


def test_tls_verifies_unless_told_not_to() -> None:
    verifying = Address.parse("rediss://cache").tls
    trusting = Address.parse("rediss://cache?ssl_cert_reqs=none").tls

    assert verifying is not None
    assert verifying.verify_mode == ssl.CERT_REQUIRED
    assert verifying.check_hostname
    assert trusting is not None
    assert trusting.verify_mode == ssl.CERT_NONE


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Address.parse("redis://:secret@cache"))


def test_what_is_no_url_of_redis_is_refused() -> None:
    with pytest.raises(ValueError, match="redis://"):
        Address.parse("http://cache")
