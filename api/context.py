"""What is known of one request while it is answered, from its first header to its log line."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from typing import Any

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~-]{1,128}")
_SEED = re.compile(rb"[0-9a-f]{32}")
_TIME = re.compile(rb"\d{1,12}\.\d{3}")
_MAX_SKEW_MS = 3_600_000  # nginx's clock may differ from ours; by more than an hour it is no clock


class RequestContext:
    """Made when its headers are here, filled in by the route, read when it ends."""

    __slots__ = (
        "answered", "arrived", "cache", "headers", "key", "method", "model", "outcome", "path", "proxy_seconds",
        "request_id", "route", "rows", "seed", "status", "unix_ms", "version",
    )  # fmt: skip

    def __init__(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """headers: their names in lower case."""
        self.arrived = time.monotonic()
        self.method = method
        self.path = path
        self.headers: dict[bytes, bytes] = dict(headers)
        seed = self.headers.get(b"x-shoal-id", b"")
        self.seed = bytes.fromhex(seed.decode()) if _SEED.fullmatch(seed) else os.urandom(16)
        request_id = self.headers.get(b"x-request-id", b"")
        self.request_id = request_id.decode() if _REQUEST_ID.fullmatch(request_id) else self.seed.hex()
        self.unix_ms, self.proxy_seconds = _taken_by_nginx(self.headers.get(b"x-shoal-time", b""))
        self.answered = 0.0
        """When the answer was there, and durable; on the monotonic clock, as `arrived`."""
        self.route = "other"
        self.outcome = "ok"
        self.status = 0
        self.model = self.version = self.cache = ""
        self.key = ""
        """The name of the API key that it came with, where keys are asked for; never the key."""
        self.rows = 0

    def line(self, seconds: float) -> dict[str, Any]:
        """The request's log line. No input, no secret and no query string in it."""
        line: dict[str, Any] = {
            "time": self.unix_ms / 1000,
            "level": "info" if self.status < 500 else "warning",
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "route": self.route,
            "status": self.status,
            "outcome": self.outcome,
            "seconds": round(seconds, 6),
        }
        if self.key:
            line["key"] = self.key
        if self.model:
            line |= {"model": self.model, "version": self.version, "cache": self.cache, "rows": self.rows}
        return line


def _taken_by_nginx(header: bytes) -> tuple[int, float | None]:
    """Unix milliseconds when nginx took the request, and the seconds since then; our own clock without nginx."""
    now_ms = time.time_ns() // 1_000_000
    if _TIME.fullmatch(header):
        then_ms = int(header.replace(b".", b""))
        if abs(now_ms - then_ms) < _MAX_SKEW_MS:
            return then_ms, max(0, now_ms - then_ms) / 1000
    return now_ms, None
