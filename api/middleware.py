"""The envelope of every request, plain ASGI: its id, its time, its metrics, its log line, and the last resort."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import lru_cache

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import logs, metrics, problems
from api.context import RequestContext
from api.replies import ClientLeft, send_problem
from api.routes.hot import HotRoutes

logger = logging.getLogger(__name__)
request_logger = logging.getLogger("api.request")  # never used to log: its level switches the request lines


@lru_cache(maxsize=1024)
def _requests(route: str, status: int, outcome: str) -> Counter:
    return metrics.REQUESTS.labels(route, str(status), outcome)


@lru_cache(maxsize=256)
def _seconds(route: str) -> Histogram:
    return metrics.REQUEST_SECONDS.labels(route)


class Envelope:
    """Hands predictions straight to their handler, past the framework's routing, and all else to the app."""

    def __init__(self, app: ASGIApp, hot: HotRoutes) -> None:
        self.app = app
        self.hot = hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = RequestContext(scope)
        scope["shoal"] = context

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", context.request_id.encode())]
            await send(message)

        metrics.REQUESTS_IN_FLIGHT.inc()
        try:
            await (self.hot.find(scope) or self.app)(scope, receive, send_with_id)
        except ClientLeft:
            context.status, context.outcome = 499, "client-left"  # nginx's own status for it
        except asyncio.CancelledError:
            # The drain is over. Its log row may be there or not; a retry makes the same one.
            if context.status:
                context.outcome = problems.STOPPING.slug
                raise
            await send_problem(send_with_id, context, problems.STOPPING, "send the request again")
        except Exception as error:  # the last resort: whatever broke, the client gets an answer and we get its trace
            logger.exception("request %s failed", context.request_id)
            if context.status:
                raise  # half a reply is out; only cutting the connection tells the client
            context.outcome = problems.INTERNAL.slug
            await send_problem(send_with_id, context, problems.INTERNAL, f"{type(error).__name__}; see the log")
        finally:
            metrics.REQUESTS_IN_FLIGHT.dec()
            self._account(scope, context)

    def _account(self, scope: Scope, context: RequestContext) -> None:
        seconds = time.monotonic() - context.arrived
        if route := scope.get("route"):
            context.route = route.path
        _requests(context.route, context.status, context.outcome).inc()
        _seconds(context.route).observe(seconds)
        if request_logger.isEnabledFor(logging.INFO):
            logs.write_request_line(context.line(scope["method"], scope["path"], seconds))
