"""A server that answers as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

Answer = Callable[[int], bytes | None]
"""What is sent back for a request's number; None hangs up, b"" says nothing."""


class Server(NamedTuple):
    port: int
    requests: list[bytes]
    """As they came."""


@contextmanager
def _serving(answer: Answer) -> Iterator[Server]:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                requests.append(head + await reader.readexactly(length))
                number = int(head.partition(b"X-Request-Id: ")[2].partition(b"\r\n")[0].rpartition(b".")[2])
                said = answer(number)
                if said is None:
                    break
                writer.write(said)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def stop() -> None:
        server.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)  # in which their connections are closed

    try:
        yield Server(server.sockets[0].getsockname()[1], requests)
    finally:  # else a test that fails leaves the thread, and pytest waits for it for ever
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def serving() -> Callable[[Answer], contextlib.AbstractContextManager[Server]]:
    return _serving
