"""How long requests took at nginx, by its own log."""

from __future__ import annotations

import re
from pathlib import Path

# Of predictions that were answered: every POST here is one, and whom the load generator left at its end has a 499.
_SECONDS = re.compile(rb'"method":"POST",.*?"status":2.*?"seconds":([0-9.]+),')


class AccessLog:
    """Read on from where the last look ended. nginx writes its lines in pieces of 4 kB, or after a second, so a look
    may leave some ten of a thousand requests to the next one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0

    def mean_seconds(self) -> float:
        """Of the requests since the last call, from the first byte that nginx had of one to the last of its answer; 0
        without any."""
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            text = file.read()
        complete = text.rfind(b"\n") + 1
        self._read_bytes += complete
        seconds = [float(found[1]) for found in _SECONDS.finditer(text, 0, complete)]
        return sum(seconds) / len(seconds) if seconds else 0.0
