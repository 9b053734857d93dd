"""The requests that a worker is answering, and the deadline of those that are predictions."""

from __future__ import annotations

import time
from collections.abc import Callable

from api.context import RequestContext
from api.errors import DeadlineExceeded, Overloaded, ServingError

Abort = Callable[[ServingError], None]


class InFlight:
    """In order of arrival. One look at the oldest now and then is the timer of them all: a timer for each would cost
    more than the rest of its bookkeeping together."""

    def __init__(self, *, deadline_seconds: float, max_requests: int) -> None:
        self.deadline_seconds = deadline_seconds
        self._max_requests = max_requests
        self._requests: dict[RequestContext, Abort | None] = {}

    def enter(self, context: RequestContext, abort: Abort | None = None) -> None:
        """abort: called with DeadlineExceeded if the request is still there at its deadline; None: nobody minds."""
        self._requests[context] = abort

    def check_room(self) -> None:
        """Raises Overloaded when there are more than there may be, the one that asks included."""
        if len(self._requests) > self._max_requests:
            raise Overloaded(f"{self._max_requests} requests are being answered already")

    def leave(self, context: RequestContext) -> None:
        self._requests.pop(context, None)

    def expire(self) -> None:
        """Aborts what is past its deadline."""
        overdue = time.monotonic() - self.deadline_seconds
        for context, abort in list(self._requests.items()):
            if context.arrived > overdue:
                return
            if abort is not None:
                abort(self.overdue())

    def overdue(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"no answer within {self.deadline_seconds:g} s")

    def __len__(self) -> int:
        return len(self._requests)
