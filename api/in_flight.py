"""The requests that a worker is answering, and the deadline of those that are predictions."""

from __future__ import annotations

import time
from collections.abc import Callable

from api.context import RequestContext
from api.errors import DeadlineExceeded, Overloaded, ServingError

Abort = Callable[[ServingError], None]

_STOOD_STILL_SECONDS = 1.0
_SPARED_SECONDS = 1.0


class InFlight:
    """In order of arrival. One look at the oldest now and then is the timer of them all: a timer for each would cost
    more than the rest of its bookkeeping together."""

    def __init__(self, *, deadline_seconds: float, max_requests: int) -> None:
        self.deadline_seconds = deadline_seconds
        self._max_requests = max_requests
        self._requests: dict[RequestContext, Abort | None] = {}
        self._looked = self._spare_until = 0.0  # on the monotonic clock

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
        """Aborts what is past its deadline. To be called several times a second.

        When it was not, the worker stood still: it was frozen, or its machine was. Its answers may be ready by now, and
        it gets a second to give them.
        """
        now = time.monotonic()
        if self._looked and now - self._looked > _STOOD_STILL_SECONDS:
            self._spare_until = now + _SPARED_SECONDS
        self._looked = now
        if now < self._spare_until:
            return
        overdue = now - self.deadline_seconds
        for context, abort in list(self._requests.items()):
            if context.arrived > overdue:
                return
            if abort is not None:
                abort(self.overdue())

    def overdue(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"no answer within {self.deadline_seconds:g} s")

    def __len__(self) -> int:
        return len(self._requests)
