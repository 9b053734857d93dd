"""Predictions past ASGI: from the parser's callbacks to one write, without a task, a scope or a message.

Measured with cached predictions of 3 features, 64 connections through nginx, 2 workers on 2 cores: 17.0 k requests/s
and 48 us of the worker's CPU each; over ASGI 12.6 k and 77 us.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache
from typing import Any

from httptools import HttpParserCallbackError, HttpParserError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api import metrics, problems
from api.context import RequestContext
from api.errors import ServingError, Stopping
from api.middleware import account, client_left, last_resort
from api.replica import Replica
from api.replies import JSON, ClientLeft, Reply
from api.routes import predict
from api.routes.hot import HotRoute, HotRoutes

logger = logging.getLogger(__name__)

_HOT = HotRoutes(predict.ROUTES)


class Exchange:
    """One prediction on a connection, from its headers to its reply. For the predictions what uvicorn's
    RequestResponseCycle is for the rest; uvicorn sees of both what stands first here."""

    __slots__ = (
        "_coroutine", "_named", "_protocol", "_replica", "_route", "_waits_for", "body", "context", "keep_alive",
        "response_complete",
    )  # fmt: skip

    def __init__(
        self, protocol: PredictionProtocol, context: RequestContext, route: HotRoute, named: Mapping[str, str]
    ) -> None:
        self.response_complete = False
        self.keep_alive = protocol.parser.should_keep_alive()
        self.context = context
        self.body: list[bytes] = []  # in the pieces that it came in, nearly always one
        self._protocol = protocol
        self._replica: Replica = protocol.app_state["replica"]
        self._route = route
        self._named = named
        self._coroutine: Coroutine[Any, None, Reply] | None = None
        self._waits_for: asyncio.Future[Any] | None = None
        context.route = route.path

    def start(self) -> None:
        """The body is whole."""
        self._replica.in_flight.enter(self.context, self.abort)
        self._protocol.exchanges.add(self)
        self._coroutine = self._route.answer(self.context, self._replica, self._named, b"".join(self.body))
        self._resume(self._coroutine.send, None)

    def abort(self, error: ServingError | ClientLeft) -> None:
        """Gives up what is being waited for. The error becomes the reply, if there is anybody to take one."""
        if self._waits_for is None:
            client_left(self.context)  # before its body was whole
            self._end()
        elif self._coroutine is not None and not self._waits_for.done():
            self._waits_for.remove_done_callback(self._go_on)
            self._waits_for.cancel()
            self._resume(self._coroutine.throw, error)

    def cancel(self, msg: object = None) -> None:
        """uvicorn's drain is over. Not at once: it is just going through the set that this leaves as it ends."""
        self._protocol.loop.call_soon(self.abort, Stopping("send the request again"))

    def _go_on(self, _: asyncio.Future[Any]) -> None:
        if self._coroutine is not None:
            self._resume(self._coroutine.send, None)

    def _resume(self, enter: Callable[[Any], asyncio.Future[Any]], value: Any) -> None:
        """Lets the coroutine run on until it waits again, or ends. What an asyncio.Task does, without its turns of the
        event loop, which are a tenth of a cached prediction."""
        try:
            self._waits_for = enter(value)
            self._waits_for._asyncio_future_blocking = False  # how a task tells that it has understood
            self._waits_for.add_done_callback(self._go_on)
        except StopIteration as end:
            self._reply(end.value)
        except ClientLeft:
            client_left(self.context)
            self._end()
        except Exception as error:  # noqa: BLE001  the last resort
            self._reply(last_resort(self.context, error))

    def _reply(self, reply: Reply) -> None:
        self.context.status = reply.status
        self._protocol.write_reply(reply, self.context.request_id, self.keep_alive)
        self._end()

    def _end(self) -> None:
        self._coroutine = None
        self.response_complete = True
        self._replica.in_flight.leave(self.context)
        self._protocol.exchanges.discard(self)
        account(self.context)
        self._protocol.on_exchange_complete(self)


class PredictionProtocol(HttpToolsProtocol):
    """uvicorn's, with a short cut for predictions, and with an answer in our own form to what is no HTTP."""

    cycle: Any  # what is being answered: an Exchange, or uvicorn's RequestResponseCycle
    exchange: Exchange | None = None  # the last one that was begun on this connection
    _idle_since = 0.0
    _idle_timer: asyncio.TimerHandle | None = None

    @property
    def exchanges(self) -> set[Any]:
        """Those of all connections, among uvicorn's tasks: what it waits for as it stops, and cancels when that takes
        too long."""
        return self.tasks

    # --- the parser's callbacks -------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        exchange = self._begin_exchange()
        if exchange is not None:
            self.cycle = self.exchange = exchange
            return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, which a prediction needs none of
        self.url, self.headers, self.expect_100_continue = url, headers, expect
        self.scope["headers"] = headers
        super().on_headers_complete()

    def _begin_exchange(self) -> Exchange | None:
        """None where anything is unusual: the request then goes the long way, on which it is looked at closely."""
        parser = self.parser
        if (
            "replica" not in self.app_state  # another app
            or parser.get_method() != b"POST"
            or not self.url.isascii()
            or b"%" in self.url  # spelled otherwise than the routes are
            or (match := _HOT.match(self.url.decode())) is None
            or parser.get_http_version() != "1.1"
            or parser.should_upgrade()
            or self.expect_100_continue
            or (self.cycle is not None and not self.cycle.response_complete)  # pipelined
        ):
            return None
        context = RequestContext("POST", self.url.decode(), self.headers)
        gate = self.app_state["replica"].gate
        if gate.asks and not gate.admits(context):
            return None
        length = context.headers.get(b"content-length", b"")
        if (
            context.headers.get(b"content-type") != JSON
            or not length.isdigit()
            or int(length) > self.app_state["replica"].max_body_bytes
        ):
            return None
        return Exchange(self, context, *match)

    def on_body(self, body: bytes) -> None:
        if isinstance(self.cycle, Exchange):
            self.cycle.body.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if isinstance(self.cycle, Exchange):
            self.cycle.start()
        else:
            super().on_message_complete()

    # --- replies ----------------------------------------------------------------------------------------------------
    def write_reply(self, reply: Reply, request_id: str, keep_alive: bool) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(
            b"%b%bx-request-id: %b\r\n%bcontent-length: %d\r\n\r\n%b"
            % (
                _head(reply.status, reply.headers),
                _lines(tuple(self.server_state.default_headers)),
                request_id.encode(),
                b"" if keep_alive else b"connection: close\r\n",
                len(reply.body),
                reply.body,
            )
        )

    def on_exchange_complete(self, exchange: Exchange) -> None:
        self.server_state.total_requests += 1
        if self.pipeline:
            super().on_response_complete()
        elif not exchange.keep_alive:
            self.transport.close()
        else:
            # Not uvicorn's, which begins and cancels a timer with each request: this one looks whether it is time.
            self._idle_since = self.loop.time()
            if self._idle_timer is None:
                self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        if not isinstance(self.cycle, Exchange) or not self.cycle.response_complete or self.transport.is_closing():
            return  # busy, or with a timer of uvicorn's
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self.transport.close()
        else:
            self._idle_timer = self.loop.call_later(left, self._close_if_idle)

    def shutdown(self) -> None:
        """uvicorn begins to stop. A job is watched for longer than it waits, and can be watched from elsewhere."""
        if (replica := self.app_state.get("replica")) is not None:
            replica.jobs.progress.stop()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.exchange is not None:
            exchange, self.exchange = self.exchange, None
            if self.cycle is exchange:
                self.cycle = None
            if not exchange.response_complete:
                exchange.abort(ClientLeft())
        if self._idle_timer is not None:  # last, as an exchange that ends may have begun it
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Not in plain text, of which nobody would hear; and not the client's mistake where a callback broke, which the
        parser reports like one."""
        problem, detail = problems.MALFORMED, "the request line or a header is malformed"
        broken = _broken_callback(sys.exception())
        if broken is not None:
            logger.error("a request failed as it was read", exc_info=broken)
            problem, detail = problems.INTERNAL, f"{type(broken).__name__}; see the log"
        body = problems.body(problem, detail, os.urandom(16).hex())
        head = b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[problem.status] + head % (problems.MEDIA_TYPE, len(body)) + body)
        self.transport.close()
        metrics.requests("other", problem.status, problem.slug).inc()


def _broken_callback(error: BaseException | None) -> BaseException | None:
    """What a callback of the parser raised, unless that was about the request: a URL that is none."""
    raised = error.__context__ if isinstance(error, HttpParserCallbackError) else None
    return None if isinstance(raised, HttpParserError | UnicodeDecodeError) else raised


@lru_cache(1024)
def _head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return STATUS_LINE[status] + _lines(headers)


@lru_cache(64)
def _lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)
