"""One POST to an address that a caller chose: over a connection to what was checked, and to nothing else."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from api.jobs.callbacks import Address

_MAX_HEAD_BYTES = 16 * 1024


class NotDelivered(Exception):
    """There was no answer; says why."""


async def post(
    url: str, headers: Mapping[str, str], body: bytes, *, allows: Callable[[Address], bool], timeout_seconds: float
) -> int:
    """The status of the answer, of which no more is read. Redirects are not followed: they would lead anywhere.

    The name is looked up once, and what it stands for is both checked and connected to; looked up again for the
    connection, it could stand for something else by then (DNS rebinding).

    Raises NotDelivered.
    """
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    host = parts.hostname or ""
    port = parts.port or (443 if is_tls else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"POST {target} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            address = await _resolve(host, port, allows)
            reader, writer = await asyncio.open_connection(
                str(address),
                port,
                ssl=ssl.create_default_context() if is_tls else None,
                server_hostname=host if is_tls else None,
                limit=_MAX_HEAD_BYTES,
            )
            writer.write("\r\n".join(lines).encode("ascii") + body)
            await writer.drain()
            version, status, *_ = (await reader.readline()).decode("latin-1").split(" ", 2)
            if not version.startswith("HTTP/") or not status[:3].isdecimal():
                raise NotDelivered("what answered does not speak HTTP")
            return int(status[:3])
    except TimeoutError as error:
        raise NotDelivered(f"no answer within {timeout_seconds:g} s") from error
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}") from error
    finally:
        if writer is not None:
            writer.close()


async def _resolve(host: str, port: int, allows: Callable[[Address], bool]) -> Address:
    """An address of the host. Refused where any of its addresses is: who mixes them means no good."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        if not allows(address):
            raise NotDelivered(f"{address} is not an address of the internet; it was not connected to")
    return addresses[0]
