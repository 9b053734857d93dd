"""How many CPUs this container may use: `os.cpu_count()` tells of the whole machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def cpus(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """The smallest CPU quota from our own cgroup up to the root, v1 or v2; without one, the CPUs we may be scheduled
    on. May be a fraction.

    Args:
        root: where cgroups are mounted.
        own: the kernel's list of the cgroups that we are in.
    """
    quotas = [quota for directory in _cgroups(root, own) if (quota := _quota(directory)) is not None]
    return min([*quotas, float(len(os.sched_getaffinity(0)))])


def _cgroups(root: Path, own: Path) -> Iterator[Path]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    yield root
    yield root / "cpu"  # v1: what a container sees is mounted here, whatever its path outside is called
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            directory = root / ("cpu" if controllers else "") / path.strip("/")
            while directory != root and root in directory.parents:
                yield directory
                directory = directory.parent


def _quota(directory: Path) -> float | None:
    try:
        if (v2 := directory / "cpu.max").exists():
            quota, period = v2.read_text().split()
        else:
            quota, period = ((directory / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError):
        return None
