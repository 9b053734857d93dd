"""A connection to Redis on which replies are matched to commands in order.

redis-py stays for reading URLs. Its client took 13 % of the CPU of a cache miss: a pool, a task and a timer a call.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, repeat
from typing import Any, cast

from hiredis import HiredisError, Reader

from api.cache.address import Address
from api.cache.commands import PING

OnReplies = Callable[[list[Any]], None]
"""Told the replies of its commands, in order. Where there is none, an exception stands in its place: hiredis'
ReplyError when Redis refused the command, an OSError when the connection was lost before its reply."""

_MORE = object()  # no whole reply is left in what was read


def after_reading(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> asyncio.Handle:
    """Calls back when the loop has read what its sockets held at the time of this call.

    For timers: a loop that was held up runs them before it reads, and what they waited for may long be there. uvloop
    runs what is scheduled now before it reads, and what that schedules after.
    """
    return loop.call_soon(loop.call_soon, callback)


class Connection(asyncio.Protocol):
    """A connection from the attempt to make it until it is lost, which is for good: see Link for the next one.

    Commands may be sent at once, and travel when it is open. One that owes replies and has been silent for
    `silent_seconds` is given up: what it says later could not help anybody, and a host that is gone says nothing.
    """

    def __init__(self, address: Address, *, silent_seconds: float) -> None:
        self.is_lost = False
        self._silent_seconds = silent_seconds
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(notEnoughData=_MORE)
        self._owed: deque[tuple[int, OnReplies]] = deque()
        self._replies: list[Any] = []  # to the first of those owed
        self._unsent: list[bytes] = []  # until it is open
        self._transport: asyncio.Transport | None = None
        self._heard_at = 0.0
        self._watch: asyncio.Handle | None = None
        self._closed = asyncio.Event()
        for command in address.greeting:
            self.send(command, 1, self._greeted)
        self._opening = self._loop.create_task(self._open(address), name="redis-connection")

    @property
    def unwritten_bytes(self) -> int:
        """What the kernel has not taken yet."""
        waiting = sum(map(len, self._unsent))
        return waiting + (self._transport.get_write_buffer_size() if self._transport else 0)

    def send(self, commands: bytes, count: int, on_replies: OnReplies) -> None:
        """Writes at once. on_replies is called exactly once, later, with `count` replies."""
        if not self._owed:
            self._heard_at = time.monotonic()
            if self._watch is None:
                self._watch = self._loop.call_later(self._silent_seconds, self._check)
        self._owed.append((count, on_replies))
        if self._transport is None:
            self._unsent.append(commands)
        else:
            self._transport.write(commands)

    async def close(self, *, within_seconds: float) -> None:
        """Waits, if only so long, until everything sent has been answered, and hangs up."""
        if self._owed and not self.is_lost:
            answered = asyncio.Event()
            self.send(PING, 1, lambda _: answered.set())
            with suppress(TimeoutError):
                await asyncio.wait_for(answered.wait(), within_seconds)
        self._lose(ConnectionAbortedError("the connection was closed"))
        await asyncio.wait([self._opening])
        if self._transport is not None:
            await self._closed.wait()

    # --- what the event loop tells --------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.is_lost:
            self._transport.abort()
        elif self._unsent:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        self._heard_at = time.monotonic()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _MORE and self._owed:
                self._replies.append(reply)
                count, on_replies = self._owed[0]
                if len(self._replies) == count:
                    self._owed.popleft()
                    replies, self._replies = self._replies, []
                    on_replies(replies)
        except HiredisError as error:
            self._lose(ConnectionError(f"redis speaks another language: {error}"))
        else:
            if reply is not _MORE:
                self._lose(ConnectionError(f"redis said what nobody asked: {reply!r}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._lose(error if isinstance(error, OSError) else ConnectionResetError("redis hung up"))
        self._closed.set()

    # --- how it ends ----------------------------------------------------------------------------------------------
    async def _open(self, address: Address) -> None:
        try:
            if address.path is None:
                await self._loop.create_connection(lambda: self, address.host, address.port, ssl=address.tls)
            else:
                await self._loop.create_unix_connection(lambda: self, address.path)
        except OSError as error:
            self._lose(error)

    def _greeted(self, replies: list[Any]) -> None:
        if isinstance(replies[0], Exception):
            self._lose(ConnectionRefusedError(f"redis does not let us in: {replies[0]}"))

    def _check(self) -> None:
        """The timer of silence. It is set once for all that is sent meanwhile."""
        self._watch = None
        if self._owed:
            rest = self._heard_at + self._silent_seconds - time.monotonic()
            if rest > 0:
                self._watch = self._loop.call_later(rest, self._check)
            else:
                self._watch = after_reading(self._loop, self._give_up)

    def _give_up(self) -> None:
        if time.monotonic() - self._heard_at < self._silent_seconds:
            self._check()
        elif self._owed:
            self._lose(TimeoutError(f"redis said nothing for {self._silent_seconds} s"))

    def _lose(self, error: OSError) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        elif self._opening is not asyncio.current_task():
            self._opening.cancel()
        heard = self._replies
        for count, on_replies in self._owed:
            # Not called from here: one that raises must not keep the others from theirs.
            self._loop.call_soon(on_replies, list(chain(heard, repeat(error, count - len(heard)))))
            heard = []
        self._owed.clear()
        self._unsent.clear()


class Link:
    """The connection of the moment. One that was lost is replaced when there is something to send again: how often
    that may be tried is up to those who send, each of whom has a breaker."""

    def __init__(self, address: Address, *, silent_seconds: float) -> None:
        self._address = address
        self._silent_seconds = silent_seconds
        self._connection: Connection | None = None

    @property
    def is_open(self) -> bool:
        """Or about to be, as far as known."""
        return self._connection is not None and not self._connection.is_lost

    @property
    def unwritten_bytes(self) -> int:
        return self._connection.unwritten_bytes if self._connection is not None else 0

    def send(self, commands: bytes, count: int, on_replies: OnReplies) -> None:
        """See Connection.send."""
        if self._connection is None or self._connection.is_lost:
            self._connection = Connection(self._address, silent_seconds=self._silent_seconds)
        self._connection.send(commands, count, on_replies)

    async def close(self, *, within_seconds: float) -> None:
        if self._connection is not None:
            await self._connection.close(within_seconds=within_seconds)
