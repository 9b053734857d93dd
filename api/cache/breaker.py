"""A circuit breaker: a store that keeps failing is left alone for a while, so that its illness costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Closed: everybody may call. Open: nobody, for `open_seconds`. Then one caller tries, and its fate decides."""

    def __init__(self, *, max_failures: int, open_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_failures = max_failures
        self._open_seconds = open_seconds
        self._clock = clock
        self._failures = 0
        self._try_again_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._max_failures

    def allows(self) -> bool:
        """Whether to call now. Answering yes while open makes this caller the one that tries."""
        if not self.is_open:
            return True
        if self._clock() < self._try_again_at:
            return False
        self._try_again_at = self._clock() + self._open_seconds
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._try_again_at = self._clock() + self._open_seconds
