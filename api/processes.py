"""What a replica's processes use of the machine, as metrics: prometheus_client's own stop at one process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.models.cgroups import cpus

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
_PPID, _UTIME, _CUTIME, _END = 1, 11, 13, 15  # utime and stime, then those of the children waited for
# Of cgroup v2 and v1. Without a limit v1 says a number beyond any machine's memory, and v2 a word.
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class ReplicaCollector(Collector):
    """CPU and memory of a gunicorn master and its workers together, and how much of each they may have."""

    def __init__(self, master: int, proc: Path = Path("/proc")) -> None:
        """master: its pid; in a worker, `os.getppid()`."""
        self._master = master
        self._proc = proc

    def describe(self) -> Iterable[Metric]:
        return self._families()

    def collect(self) -> Iterable[Metric]:
        families = self._families()
        used, limit, memory, memory_limit = families
        used.add_metric([], self._cpu_seconds())
        limit.add_metric([], cpus())
        memory.add_metric([], sum(self._memory_bytes(pid) for pid in (self._master, *self._workers())))
        memory_limit.add_metric([], _memory_limit())
        return families

    def _families(self) -> tuple[CounterMetricFamily, GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            CounterMetricFamily("shoal_replica_cpu_seconds", "CPU time of all processes, those that ended included."),
            GaugeMetricFamily("shoal_replica_cpu_limit_cores", "Cores the replica may use: its quota, or all it sees."),
            GaugeMetricFamily("shoal_replica_memory_bytes", "Memory of all processes, a shared page counted once."),
            GaugeMetricFamily("shoal_replica_memory_limit_bytes", "Memory the replica may use."),
        )

    def _workers(self) -> Iterator[int]:
        # Not /proc/<pid>/task/<tid>/children: kernels may lack it, and it may miss a child while others end.
        for entry in self._proc.iterdir():
            if entry.name.isdecimal() and (stat := self._stat(int(entry.name))) and int(stat[_PPID]) == self._master:
                yield int(entry.name)

    def _cpu_seconds(self) -> float:
        """A worker that ended lives on in what its master has waited for, so the sum never goes back."""
        master = self._stat(self._master)
        while True:
            ticks = sum(map(int, master[_UTIME:_END])) + sum(
                sum(map(int, self._stat(pid)[_UTIME:_CUTIME])) for pid in self._workers()
            )
            before, master = master, self._stat(self._master)
            if before[_CUTIME:_END] == master[_CUTIME:_END]:
                return ticks / _TICKS
            # A worker ended meanwhile: it was counted twice or not at all, and either looks like a counter's reset.

    def _stat(self, pid: int) -> list[str]:
        """The fields of /proc/<pid>/stat from the third on; none if the process is gone. See proc(5)."""
        try:
            return (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return []

    def _memory_bytes(self, pid: int) -> int:
        """Its proportional set size: a page that n processes share counts as one n-th."""
        try:
            lines = (self._proc / str(pid) / "smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _memory_limit() -> int:
    limits = [_PAGES]
    for path in _MEMORY_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):
            continue
    return min(limits)
