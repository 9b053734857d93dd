"""The gunicorn worker: uvicorn, with a drain that ends."""

from __future__ import annotations

import os
import signal
from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from api.protocol import PredictionProtocol
from api.settings import Settings


class DrainingWorker(UvicornWorker):  # type: ignore[misc]
    """Stops within `drain_seconds`: idle connections are closed at once, requests in flight are finished, and what is
    then still unanswered is cancelled, so that the shutdown code, which flushes the log, always runs.

    The stock UvicornWorker never bounds its drain: one hung request, and gunicorn kills it with the rest unrun.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": PredictionProtocol,
        "ws": "none",  # no route speaks it, and none should be reached past the envelope
        "lifespan": "on",
        "access_log": False,  # middleware.py writes the one line a request gets
        "server_header": False,
        "proxy_headers": False,  # nothing here asks for the client's address or scheme
        "timeout_notify": 1,
        "timeout_graceful_shutdown": Settings().drain_seconds,
    }

    async def callback_notify(self) -> None:
        """Tells gunicorn, once a second, that the event loop turns. Without a master, drains: nobody would ever stop
        this worker, and it would hold the port that the next master needs."""
        self.notify()
        if os.getppid() != self.ppid:
            signal.raise_signal(signal.SIGTERM)
