"""Ends a worker whose model hangs: a run cannot be stopped otherwise, neither on the event loop nor in a thread."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

from api.batching import Batcher

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5


class HangWatch:
    """A thread that looks at what runs, also while the event loop does not turn. A context manager.

    The worker that replaces this one has all its models; who asked the others meanwhile is answered by other replicas,
    as nginx tries them when this one hangs up.
    """

    def __init__(
        self,
        batchers: Sequence[Batcher[Any]],
        *,
        loop_seconds: float,
        thread_seconds: float,
        end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL),
    ) -> None:
        """
        Args:
            loop_seconds: longest run on the event loop, which holds up everybody; soon enough for nginx to try others.
            thread_seconds: longest run in the thread, which holds up the dear models only; beyond the deadline, as
                until then somebody may be waiting for it.
            end: what is done about it.
        """
        self._longest = [(each, loop_seconds if each.runs_on_loop else thread_seconds) for each in batchers]
        self._end = end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hangs", daemon=True)

    def __enter__(self) -> HangWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        suspects: set[str] = set()
        while not self._stop.wait(_LOOK_SECONDS):
            hanging = {each.name for each, longest in self._longest if each.run_seconds > longest}
            # Twice in a row: a worker that was frozen itself gets the time to end the run.
            for name in hanging & suspects:
                logger.critical("%s hangs; this worker ends, and another one takes its place", name)
                self._end()
            suspects = hanging
