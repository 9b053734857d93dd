"""The load generator: a closed loop, in which each connection asks again as soon as it is answered."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("wrk.lua")
TIMEOUT_SECONDS = 20  # the ladder of waits: a client's


class CannotMeasure(Exception):
    """The benchmark cannot start, or not go on; the message is one line for the terminal."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the load generator saw. Latencies and seconds as measured by it.

    seconds: from the first request to the last answer; what was left unanswered then, which with dear models is a good
    part of all work, is not taken for idleness. Not more than a median latency before its own end, though, so that a
    subject which stalls does not seem quick. cpu_seconds: its own.
    """

    requests: int
    seconds: float
    mean_seconds: float = 0.0
    p50_seconds: float = 0.0
    p99_seconds: float = 0.0
    max_seconds: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def is_busy(self) -> bool:
        """It may have been what held up the others: of its one thread hardly anything was left."""
        return self.cpu_seconds > 0.9 * self.seconds

    @property
    def failures(self) -> int:
        """Requests that were not answered with a 2xx, or not at all."""
        return sum(self.errors.values())


def find() -> str:
    """
    Raises:
        CannotMeasure: it is not installed.
    """
    if path := shutil.which("wrk"):
        return path
    raise CannotMeasure("the load generator wrk is not on PATH; `apt-get install wrk` on Debian, `brew install wrk`")


def run(url: str, arguments: list[str], *, connections: int, seconds: int, threads: int = 1) -> Load:
    """
    Args:
        arguments: for wrk.lua; see workloads.Bodies.
        threads: of the load generator. One makes far more requests than a replica answers on the cores left to it.
    Raises:
        CannotMeasure: it did not run.
    """
    command = [find(), "--threads", str(threads), "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(SCRIPT), url, "--", *arguments]
    before = _children_cpu_seconds()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own command
    if ended.returncode:
        raise CannotMeasure(f"wrk failed: {(ended.stderr or ended.stdout).strip().splitlines()[-1:]}")
    return replace(read(ended.stdout), cpu_seconds=_children_cpu_seconds() - before)


def read(output: str) -> Load:
    """What wrk.lua wrote below wrk's own words.

    Raises:
        CannotMeasure: nothing.
    """
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            fields: dict[str, Any] = json.loads(line)
            return Load(**fields)
    raise CannotMeasure(f"expected a line of JSON from wrk, got {output[-200:]!r}")


def _children_cpu_seconds() -> float:
    """Of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
