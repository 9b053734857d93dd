"""The gunicorn worker: uvicorn, with a drain that ends."""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from api.settings import Settings


class DrainingWorker(UvicornWorker):  # type: ignore[misc]
    """Stops within `drain_seconds`: idle connections are closed at once, requests in flight are finished, and what is
    then still unanswered is cancelled, so that the shutdown code, which flushes the log, always runs.

    The stock UvicornWorker never bounds its drain: one hung request, and gunicorn kills it with the rest unrun.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "httptools",
        "lifespan": "on",
        "access_log": False,  # middleware.py writes the one line a request gets
        "server_header": False,
        "timeout_graceful_shutdown": int(Settings().drain_seconds),
    }
