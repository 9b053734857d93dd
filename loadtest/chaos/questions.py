"""What each request of a load asks: told by its number, so that nothing has to be remembered to check its answer."""

from __future__ import annotations

import msgspec

RUNS = 6000  # seeds that give rows of their own
_ROWS = 5000 * 4000  # rows of one seed


class Questions:
    """Requests for predictions of three features, each with an id and a row that no other has.

    Three decimals, and far enough from each other to be different float32 values too, so that no two rows meet in a
    cache. Within the ranges of the penguins' bills and flippers, in mm, so that all classes are among the answers.
    """

    def __init__(self, run: str, seed: int, *, path: str = "/predict", repeat_every: int = 0, repeated: int = 100):
        """
        Args:
            run: the beginning of each request's id.
            seed: rows of different seeds are different.
            repeat_every: so many requests apart is one whose row is one of a few that come again and again; 0: none.
            repeated: how many those few are.
        """
        self.run = run
        self.seed = seed % RUNS
        self._repeat_every = repeat_every
        self._repeated = repeated
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: chaos\r\nContent-Type: application/json\r\nX-Request-Id: {run}."
        ).encode()

    def request_id(self, number: int) -> str:
        return f"{self.run}.{number}"

    def number(self, request_id: str) -> int | None:
        """Of the request with that id; None if it is none of ours."""
        run, _, number = request_id.rpartition(".")
        return int(number) if run == self.run and number.isdecimal() else None

    def row(self, number: int) -> list[float]:
        row: list[float] = msgspec.json.decode(self._features(number))
        return row

    def message(self, number: int) -> bytes:
        """The whole request, as it goes over the wire."""
        features = self._features(number)
        return b'%b%d\r\nContent-Length: %d\r\n\r\n{"features":%b}' % (
            self._head,
            number,
            len(features) + 13,
            features,
        )

    def _features(self, number: int) -> bytes:
        if self._repeat_every and number % self._repeat_every == 0:
            # Beyond those of their own.
            number = _ROWS - 1 - number // self._repeat_every % self._repeated
        bill, depth = number % 5000 * 5, number // 5000 % 4000 * 2
        return b"[%d.%03d,%d.%03d,%d.%02d]" % (
            32 + bill // 1000,
            bill % 1000,
            13 + depth // 1000,
            depth % 1000,
            170 + self.seed // 100,
            self.seed % 100,
        )
