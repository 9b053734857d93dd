"""Where Redis is and how one gets in, read off its URL by redis-py's own parser."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from api.cache.commands import pack


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis, and what a new connection says to it first."""

    host: str
    port: int
    path: str | None
    """Of the Unix socket; None: over TCP."""
    tls: ssl.SSLContext | None
    greeting: tuple[bytes, ...] = field(repr=False)
    """Commands, each packed, that Redis must take before all others: who we are, which database. Holds the password."""

    @classmethod
    def parse(cls, url: str, *, password: str | None = None) -> Address:
        """url: redis://, rediss:// or unix://, with the query options that redis-py documents for database and TLS.
        password: of a URL that has none.

        Raises ValueError when the URL is none of these.
        """
        parts = dict(parse_url(url))
        kind = parts.get("connection_class")
        tls = None
        if kind is SSLConnection:
            options = {name: value for name, value in parts.items() if name.startswith("ssl_")}
            tls = SSLConnection(**options).ssl_context.get()  # type: ignore[arg-type]
        return cls(
            host=str(parts.get("host", "localhost")),
            port=int(str(parts.get("port", 6379))),
            path=str(parts.get("path", "")) if kind is UnixDomainSocketConnection else None,
            tls=tls,
            greeting=tuple(_greeting(parts, password)),
        )


def _greeting(parts: dict[str, object], password: str | None) -> list[bytes]:
    commands = []
    if secret := parts.get("password", password):
        user = (str(parts["username"]),) if "username" in parts else ()
        commands.append(pack("AUTH", *user, str(secret)))
    if database := parts.get("db", 0):
        commands.append(pack("SELECT", int(str(database))))
    return commands
