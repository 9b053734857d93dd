"""A tap between workers and RabbitMQ: it keeps frames of a chosen kind from their way, so that one can stay between any
two steps of a message for as long as one likes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

from loadtest.chaos.network import loop_in_thread

_BEGINNING_BYTES = 8  # of a client: "AMQP" and a version. All else are frames
_METHOD = 1  # type of a frame, which those with a message's content follow


class Step(Enum):
    """Who says it, class and method: https://www.rabbitmq.com/amqp-0-9-1-reference#basic"""

    PUBLISH = ("client", 60, 40)
    CONFIRM = ("server", 60, 80)
    DELIVER = ("server", 60, 60)
    ACKNOWLEDGE = ("client", 60, 80)
    REJECT = ("client", 60, 90)


class Tap:
    """Listens at `port`, in a thread of its own; to be used from one other."""

    def __init__(self, server_port: int, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """run: a coroutine in that thread, to its end."""
        self._server_port = server_port
        self._run = run
        self._keeping: frozenset[Step] = frozenset()
        self._kept: list[tuple[Step, asyncio.StreamWriter, bytes]] = []
        self.port = 0

    def keep(self, *steps: Step) -> None:
        """From now on these do not arrive. What was kept before is forgotten: RabbitMQ was killed meanwhile, and its
        connections are gone."""
        self._kept = []
        self._keeping = frozenset(steps)

    def has_kept(self, step: Step) -> bool:
        return any(each == step for each, _, _ in self._kept)

    def pass_on(self) -> None:
        """What was kept arrives after all, and whatever follows."""
        self._run(self._pass_on())

    async def listen(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _pass_on(self) -> None:
        self._keeping = frozenset()
        for _, writer, frame in self._kept:
            writer.write(frame)

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        writers = [to_client]
        passing: list[asyncio.Task[None]] = []
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
            writers.append(to_server)
            to_server.write(await client.readexactly(_BEGINNING_BYTES))
            passing = [
                asyncio.create_task(self._pass("client", client, to_server)),
                asyncio.create_task(self._pass("server", server, to_client)),
            ]
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.IncompleteReadError):
            pass  # RabbitMQ is away, or the worker has left
        finally:
            for task in passing:
                task.cancel()
            for writer in writers:
                writer.transport.abort()

    async def _pass(self, who: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        steps: dict[bytes, Step | None] = {}  # by channel: whose content follows, if any is to be kept
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(7)  # type, channel, size
                rest = await reader.readexactly(int.from_bytes(head[3:], "big") + 1)
                if head[0] == _METHOD:
                    steps[head[1:3]] = self._step(who, rest)
                step = steps.get(head[1:3])
                if step is not None and step in self._keeping:
                    self._kept.append((step, writer, head + rest))
                else:
                    writer.write(head + rest)
                    await writer.drain()

    def _step(self, who: str, method: bytes) -> Step | None:
        kind = (who, int.from_bytes(method[:2], "big"), int.from_bytes(method[2:4], "big"))
        return next((step for step in self._keeping if step.value == kind), None)


@contextmanager
def tapped(server_port: int) -> Iterator[Tap]:
    with loop_in_thread() as run:
        tap = Tap(server_port, run)
        run(tap.listen())
        yield tap
