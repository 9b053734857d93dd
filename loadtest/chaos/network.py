"""What happens on the network: replicas cut off mid-answer, and clients that are slow, silent, idle or gone."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from loadtest.chaos.questions import Questions
from loadtest.chaos.reconcile import STRANGERS
from loadtest.chaos.stage import Stage

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


def reset_mid_answer(stage: Stage) -> None:
    """One answer in ten is cut off on its way from a replica to nginx, which has its row by then."""
    replicas = [replica.address for replica in stage.stack.replicas]
    with loop_in_thread() as run:
        proxies = [run(_proxy(replica.port)) for replica in stage.stack.replicas]
        stage.stack.nginx.reload([f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}" for proxy in proxies])
        stage.go_on(0.6)
        stage.over()
        stage.stack.nginx.reload(replicas)
        stage.go_on(0.05)  # the old processes of nginx finish what they have


async def _proxy(port: int) -> asyncio.Server:
    chance = random.Random(port)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", port)

        async def ask() -> None:
            while data := await reader.read(65536):
                to_server.write(data)
            to_server.close()

        asking = asyncio.ensure_future(ask())
        with contextlib.suppress(ConnectionError):
            while data := await server.read(65536):
                if chance.random() < 0.1:
                    writer.write(data[: len(data) // 2])
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    break
                writer.write(data)
        asking.cancel()
        writer.transport.abort()
        to_server.transport.abort()

    return await asyncio.start_server(pass_on, "127.0.0.1", 0)


def slow_clients(stage: Stage) -> None:
    """A thousand that send their headers, and a thousand that send their bodies, a byte a second."""
    whole = Questions(f"{STRANGERS}slow", 5).message(0)
    head = whole.index(b"\r\n\r\n") + 4

    async def drip(start: int) -> None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", stage.stack.nginx.port)
            writer.write(whole[:start])
            for at in range(start, len(whole) - 1):
                await asyncio.sleep(1)
                writer.write(whole[at : at + 1])

    _with_clients(stage, [drip(20 if number % 2 else head) for number in range(200 if stage.effort.quick else 2000)])


def clients_that_leave(stage: Stage) -> None:
    """By the thousand, mid-request: some before its end, some before the answer."""
    questions = Questions(f"{STRANGERS}left", 6)

    async def leave(first: int) -> None:
        for number in range(first, first + 20):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", stage.stack.nginx.port)
                message = questions.message(number)
                writer.write(message if number % 2 else message[:-10])
                await asyncio.sleep(0.001 * (number % 5))
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            await asyncio.sleep(0.1)

    _with_clients(stage, [leave(20 * number) for number in range(20 if stage.effort.quick else 250)])


def half_open(stage: Stage) -> None:
    """Connections on which nothing comes, or half a header and then nothing."""

    async def hang(said: bytes) -> None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", stage.stack.nginx.port)
            writer.write(said)
            await asyncio.sleep(600)

    clients = 200 if stage.effort.quick else 2000
    _with_clients(stage, [hang(b"POST /predict HTTP/1.1\r\nHost:" if number % 2 else b"") for number in range(clients)])


def idle_connections(stage: Stage) -> None:
    """Five thousand that have had an answer, and are kept."""

    async def stay() -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", stage.stack.nginx.port)
            writer.write(b"GET /nothing-here HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(600)

    _with_clients(stage, [stay() for _ in range(500 if stage.effort.quick else 5000)])


def _with_clients(stage: Stage, clients: list[Coroutine[Any, Any, None]]) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stage.made["clients"] = f"{len(clients)}"
    with loop_in_thread() as run:

        async def all_of_them() -> list[asyncio.Task[None]]:
            tasks = []
            for number, client in enumerate(clients):
                tasks.append(asyncio.create_task(client))
                if number % 50 == 0:
                    await asyncio.sleep(0.02)  # the accept queue is finite
            return tasks

        run(all_of_them())
        stage.go_on(0.5)
        stage.over()


@contextmanager
def loop_in_thread() -> Iterator[Any]:
    """An event loop in a thread of its own; gives what runs a coroutine in it and returns its result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def stop() -> None:
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
