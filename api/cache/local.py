"""The first tier: an LRU in the worker's own memory. A hit costs a dictionary lookup."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class LocalCache(Generic[V]):
    """Keeps the `max_rows` answers used last. Not for threads: the event loop's only."""

    def __init__(self, max_rows: int) -> None:
        """max_rows: 0 keeps nothing."""
        self.max_rows = max_rows
        self._answers: OrderedDict[bytes, V] = OrderedDict()

    def get(self, key: bytes) -> V | None:
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: V) -> None:
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > self.max_rows:
            self._answers.popitem(last=False)

    def __len__(self) -> int:
        return len(self._answers)
