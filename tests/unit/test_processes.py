"""What a replica's processes use, read off real processes: this one as the master, forked children as workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from api.processes import ReplicaCollector
from tests.servers import eventually

BUSY = "import time, sys; b = bytearray(64 << 20); t = time.process_time() + 0.3\nwhile time.process_time() < t: pass\n"


@pytest.fixture
def busy_worker() -> Iterator[subprocess.Popen[bytes]]:
    """A child that takes 64 MiB, uses 0.3 s of CPU and says so, then waits for its input to end."""
    program = BUSY + "print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def read() -> dict[str, float]:
    return {
        sample.name: sample.value for family in ReplicaCollector(os.getpid()).collect() for sample in family.samples
    }


def test_a_workers_memory_and_time_are_the_replicas(busy_worker: subprocess.Popen[bytes]) -> None:
    used = read()

    assert used["shoal_replica_memory_bytes"] > 64 << 20
    assert used["shoal_replica_memory_bytes"] < used["shoal_replica_memory_limit_bytes"]
    assert used["shoal_replica_cpu_seconds_total"] >= time.process_time() + 0.25
    assert used["shoal_replica_cpu_limit_cores"] > 0


def test_time_does_not_go_back_when_a_worker_ends(busy_worker: subprocess.Popen[bytes]) -> None:
    before = read()["shoal_replica_cpu_seconds_total"]
    busy_worker.kill()
    # Dead and not waited for, then waited for: both are moments at which a scrape may come.
    eventually(lambda: _is_zombie(busy_worker.pid))
    while_a_zombie = read()["shoal_replica_cpu_seconds_total"]
    busy_worker.wait(5)
    after = read()["shoal_replica_cpu_seconds_total"]

    assert before <= while_a_zombie <= after


def test_a_replica_that_just_ended_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as master:
        master.wait(10)

    used = {s.name: s.value for family in ReplicaCollector(master.pid).collect() for s in family.samples}

    assert used["shoal_replica_memory_bytes"] == 0
    assert used["shoal_replica_cpu_seconds_total"] == 0


def _is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "Z"
