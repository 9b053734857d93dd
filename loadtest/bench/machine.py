"""What it was measured on: no figure means anything without it."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "fastapi", "pydantic", "uvicorn", "uvloop", "httptools", "gunicorn", "redis", "psycopg", "msgspec")


def describe(folder: Path, load_generator: str = "") -> dict[str, Any]:
    """folder: where the stores keep their state. load_generator: its command, whose version is asked."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        **({"wrk": _first_line([load_generator, "--version"])} if load_generator else {}),
        "fsync_seconds": fsync_seconds(folder),
        "load_before": os.getloadavg()[0],
        "revision": _first_line(["git", "describe", "--always", "--dirty"]),
    }


def in_words(machine: dict[str, Any]) -> str:
    memory, fsync = machine["memory_bytes"] / 2**30, machine["fsync_seconds"] * 1e3
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {memory:.0f} GiB, {machine['kernel']}, Python "
        f"{machine['python']}, fsync {fsync:.2f} ms, load before {machine['load_before']:.1f}"
    )


def fsync_seconds(folder: Path, times: int = 50) -> float:
    """Median of a small write with its fsync: what a commit waits for."""
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(times):
            begun = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _first_line(command: list[str]) -> str:
    """Of what it says; wrk says its version and exits with 1."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own commands
    except OSError:
        return "unknown"
    return next(iter((ended.stdout + ended.stderr).splitlines()), "unknown")
