"""What became of every request of a load: kept in columns, as there may be millions."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator

PENDING, BROKEN, SILENT = 0, -1, -2
_WORDS = {PENDING: "unanswered", BROKEN: "connection broken", SILENT: "no answer in time"}
_KEPT_FAILURES = 1000


class Ledger:
    """One entry a request, by its number. Times are in seconds on the monotonic clock.

    Written by the load's thread alone; others may read at any time.
    """

    def __init__(self) -> None:
        self.due = array("d")
        """When it was to be sent: what its latency counts from."""
        self.sent = array("d")
        self.done = array("d")
        self.status = array("h")
        """Of HTTP; or PENDING, BROKEN, SILENT."""
        self.retry_after = array("h")
        """Seconds; -1 without that header."""
        self.bodies: list[bytes] = []
        """Of what was answered with 200."""
        self.reasons: dict[int, str] = {}
        """What the first of those said that failed."""
        self.answered = 0
        """How many got a 200."""

    def __len__(self) -> int:
        return len(self.due)

    def begin(self, due: float, now: float) -> int:
        """Returns the new request's number."""
        self.due.append(due)
        self.sent.append(now)
        self.done.append(0)
        self.retry_after.append(-1)
        self.bodies.append(b"")
        self.status.append(PENDING)
        return len(self.status) - 1

    def end(self, number: int, now: float, status: int, body: bytes = b"", retry_after: int = -1) -> None:
        self.done[number] = now
        self.retry_after[number] = retry_after
        if status == 200:
            self.bodies[number] = body
            self.answered += 1
        elif len(self.reasons) < _KEPT_FAILURES:
            self.reasons[number] = body[:300].decode(errors="replace")
        self.status[number] = status

    def latency(self, number: int) -> float:
        """Seconds from when it was due; of what has ended."""
        return self.done[number] - self.due[number]

    def latencies(self, *statuses: int, since: float = 0, until: float = float("inf")) -> list[float]:
        """Sorted, of requests that ended so and were due in that time."""
        return sorted(
            self.latency(number)
            for number, status in enumerate(self.status)
            if status in statuses and since <= self.due[number] < until
        )

    def statuses(self, since: float = 0, until: float = float("inf")) -> Counter[int]:
        """Of requests that were due in that time."""
        return Counter(status for number, status in enumerate(self.status) if since <= self.due[number] < until)

    def answers_between(self, since: float, until: float) -> int:
        """How many answers came in that time, whenever they were asked for."""
        return sum(
            status == 200 and since <= done < until for status, done in zip(self.status, self.done, strict=False)
        )

    def numbers(self, status: int) -> Iterator[int]:
        """Of the requests that ended so."""
        return (number for number, each in enumerate(self.status) if each == status)


def in_words(status: int) -> str:
    return _WORDS.get(status) or f"{status}"


def share(ordered: list[float], part: float) -> float:
    """The percentile of sorted values, as a share: 0.99; 0 of none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0
