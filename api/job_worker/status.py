"""How a worker is doing, over HTTP: /health/live, /health/ready and /metrics, where replicas have them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

_TIMEOUT_SECONDS = 5
_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@asynccontextmanager
async def status_pages(bind: str, state: Callable[[], Mapping[str, Any]]) -> AsyncIterator[None]:
    """
    Args:
        bind: host:port.
        state: what /health says; `status` in it is ok when all is.
    """

    async def page(path: str) -> tuple[int, str, bytes]:
        match path.partition("?")[0]:
            case "/health/live":
                return 200, "application/json", b'{"status":"ok"}'
            case "/health" | "/health/ready":
                now = state()
                is_well = now["status"] == "ok" or path == "/health"
                return 200 if is_well else 503, "application/json", msgspec.json.encode(now)
            case "/metrics":
                # In a thread: some milliseconds, in which a chunk goes on.
                return 200, CONTENT_TYPE_LATEST, await asyncio.to_thread(generate_latest, REGISTRY)
        return 404, "text/plain", b"there is /health, /health/live, /health/ready and /metrics\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                method, path, *_ = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
                status, media_type, body = (
                    await page(path.decode("latin-1")) if method == b"GET" else (405, "text/plain", b"GET only\n")
                )
                head = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {media_type}\r\n"
                writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
                await writer.drain()
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # no HTTP, or gone: whoever asks will ask again
        finally:
            writer.close()

    host, _, port = bind.rpartition(":")
    async with await asyncio.start_server(answer, host, int(port)):
        yield
