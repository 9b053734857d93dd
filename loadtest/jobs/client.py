"""Jobs over HTTP, for those who measure."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any

_TIMEOUT_SECONDS = 300


def ask(
    port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        type_of_body = {"Content-Type": "application/x-ndjson"} if body else {}
        connection.request(method, path, body, {**type_of_body, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def rows(count: int, seed: object) -> Iterator[list[float]]:
    """Penguins, hardly any of them twice."""
    numbers = random.Random(f"{seed}")
    for _ in range(count):
        yield [
            round(numbers.uniform(32, 60), 5),
            round(numbers.uniform(13, 22), 3),
            round(numbers.uniform(170, 232), 2),
        ]


def ndjson(count: int, seed: object) -> bytes:
    return "".join(f"[{a},{b},{c}]\n" for a, b, c in rows(count, seed)).encode()


def submit(port: int, body: bytes, parameters: str = "", key: str | None = None) -> str:
    """key: makes it the same job where it is sent again. Raises RuntimeError: it was not taken."""
    status, answer = ask(port, "POST", f"/jobs{parameters}", body, {"Idempotency-Key": key} if key else None)
    if status != 202:
        raise RuntimeError(f"{status}: {answer[:200]!r}")
    return str(json.loads(answer)["id"])


def job(port: int, id: str) -> dict[str, Any]:
    status, answer = ask(port, "GET", f"/jobs/{id}")
    if status != 200:
        raise RuntimeError(f"{status}: {answer[:200]!r}")
    found: dict[str, Any] = json.loads(answer)
    return found


def ended(port: int, id: str, within_seconds: float = 600) -> dict[str, Any]:
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            now = job(port, id)
            if now["finished_at"]:
                return now
        except (OSError, http.client.HTTPException, RuntimeError):
            pass  # Postgres, or all of it, may be away for a moment: that is what is tried here
        if time.monotonic() > deadline:
            raise RuntimeError(f"job {id} did not end within {within_seconds} s")
        time.sleep(0.2)
