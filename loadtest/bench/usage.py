"""CPU time and memory of processes and all that descends from them, read from /proc."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def tree(root: int) -> list[int]:
    """The process and its descendants: workers, and the backends of Postgres."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the tree since it was started, of processes that have ended too.

    A process that ended and was waited for is counted in its parent's cutime and cstime.
    """
    # utime, stime, cutime, cstime
    return sum(sum(map(int, fields[11:15])) for pid in tree(root) if (fields := _stat(pid))) / _TICKS


def machine_cpu_seconds() -> float:
    """Of everything that runs on this machine, and of what its host did instead, since it was started."""
    # user, nice, system, idle, iowait, irq, softirq, steal
    fields = list(map(int, (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / _TICKS


def pss_bytes(root: int) -> int:
    """Memory of the tree; a page that several processes share is divided among them."""
    total = 0
    for pid in tree(root):
        try:
            lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def wait_until_quiet(roots: Iterable[int], *, share: float = 0.05, at_most_seconds: float = 60) -> None:
    """Until together they use less than that share of a core: what a load left to do in the background is done."""
    roots = list(roots)
    deadline = time.monotonic() + at_most_seconds
    before, then = sum(map(cpu_seconds, roots)), time.monotonic()
    while then < deadline:
        time.sleep(0.3)
        now_used, now = sum(map(cpu_seconds, roots)), time.monotonic()
        if now_used - before < share * (now - then):
            return
        before, then = now_used, now


def _stat(pid: int) -> list[str]:
    """The fields after the name, which may hold anything: state, parent, … Empty if the process has ended."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
