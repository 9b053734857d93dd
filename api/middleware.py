"""The envelope of every request, plain ASGI: its id, its time, its metrics, its log line, and the last resort."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import logs, metrics, problems
from api.context import RequestContext
from api.errors import ServingError, Stopping
from api.replica import Replica
from api.replies import ClientLeft, Reply, problem_reply, send_reply
from api.routes.hot import HotRoutes

logger = logging.getLogger(__name__)
request_logger = logging.getLogger("api.request")  # never used to log: its level switches the request lines


def account(context: RequestContext) -> None:
    """Counts a request that has ended, and writes its line."""
    now = time.monotonic()
    seconds = now - context.arrived
    if context.answered:
        metrics.STAGE_REPLY.observe(now - context.answered)
    metrics.requests(context.route, context.status, context.outcome).inc()
    metrics.request_seconds(context.route).observe(seconds)
    if context.key:
        metrics.key_requests(context.key, context.status).inc()
    if request_logger.isEnabledFor(logging.INFO):
        logs.write_request_line(context.line(seconds))


class Envelope:
    """What every request gets that goes through ASGI. Predictions seldom do: see protocol.py."""

    def __init__(self, app: ASGIApp, hot: HotRoutes) -> None:
        """hot: handed to their handlers past the framework's routing, all else to the app."""
        self.app = app
        self.hot = hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = scope["shoal"] = RequestContext(scope["method"], scope["path"], scope["headers"])
        replica: Replica = scope["state"]["replica"]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", context.request_id.encode())]
            await send(message)

        replica.in_flight.enter(context)
        try:
            replica.gate.check(context)  # before routing: what is not open does not even say whether it is there
            await (self.hot.find(scope) or self.app)(scope, receive, send_with_id)
        except ClientLeft:
            client_left(context)
        except ServingError as error:  # the gate's; routes answer theirs by themselves
            await send_reply(send_with_id, problem_reply(context, problems.of(error), str(error), error))
        except asyncio.CancelledError:
            # The drain is over. Its log row may be there or not; a retry makes the same one.
            reply = problem_reply(context, problems.PROBLEMS[Stopping], "send the request again")
            if context.status:
                raise
            await send_reply(send_with_id, reply)
        except Exception as error:
            if context.status:
                logger.exception("request %s failed", context.request_id)
                raise  # half a reply is out; only cutting the connection tells the client
            await send_reply(send_with_id, last_resort(context, error))
        finally:
            replica.in_flight.leave(context)
            if route := scope.get("route"):
                context.route = route.path
            account(context)


def client_left(context: RequestContext) -> None:
    context.status, context.outcome = 499, "client-left"  # nginx's own status for it


def last_resort(context: RequestContext, error: Exception) -> Reply:
    """Whatever broke, the client gets an answer and we get its trace."""
    logger.error("request %s failed", context.request_id, exc_info=error)
    return problem_reply(context, problems.INTERNAL, f"{type(error).__name__}; see the log")
