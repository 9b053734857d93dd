"""A steady load that keeps account of every request, for tests that break something meanwhile."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType


@dataclass(slots=True)
class Report:
    """What became of each request."""

    ids: list[str] = field(default_factory=list)
    """Of the predictions that were answered with 200, in no order."""
    failures: list[str] = field(default_factory=list)
    """Status and body, or the exception, of everything else."""
    caches: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0

    def __str__(self) -> str:
        return (
            f"{len(self.ids)} answered, {len(self.failures)} failed {self.failures[:3]}, "
            f"slowest {self.slowest_seconds:.3f} s, cache {dict(self.caches)}"
        )


class Load:
    """Clients that ask for predictions of penguins, over kept-alive connections, each at its own steady pace.

    Half of the rows come from a few that repeat, the others are new. A context manager: the load runs inside the block,
    and `report` is complete after it. A request is sent once: what fails is counted, not tried again.
    """

    # The ladder of waits begins with a client's patience, as in loadtest/.
    TIMEOUT_SECONDS = 20

    def __init__(self, host: str, port: int, *, clients: int = 8, requests_per_second: float = 120) -> None:
        self._address = (host, port)
        self._pause_seconds = clients / requests_per_second
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(seed,)) for seed in range(clients)]
        self.report = Report()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        with self._lock:
            return len(self.report.ids)

    def _client(self, seed: int) -> None:
        numbers = random.Random(f"{seed} {time.time_ns()}")
        common = [_row(random.Random(number)) for number in range(50)]
        connection = http.client.HTTPConnection(*self._address, timeout=self.TIMEOUT_SECONDS)
        # Waits on the event, so that the end of the test ends the pause.
        while not self._stop.wait(numbers.uniform(0, 2 * self._pause_seconds)):
            row = numbers.choice(common) if numbers.random() < 0.5 else _row(numbers)
            started = time.monotonic()
            try:
                body = json.dumps({"features": row})
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
                failure = None if response.status == 200 else f"{response.status} {answer[:300]!r}"
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                failure = f"{type(error).__name__}: {error}"
            seconds = time.monotonic() - started
            with self._lock:
                self.report.slowest_seconds = max(self.report.slowest_seconds, seconds)
                if failure is None:
                    self.report.ids.append(json.loads(answer)["id"])
                    self.report.caches[response.headers.get("X-Cache", "none")] += 1
                else:
                    self.report.failures.append(failure)
        connection.close()


def _row(numbers: random.Random) -> list[float]:
    """Bill length, bill depth and flipper length, in mm."""
    return [round(numbers.uniform(32, 60), 4), round(numbers.uniform(13, 22), 4), round(numbers.uniform(170, 232), 4)]
