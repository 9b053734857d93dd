"""Against processes of our own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loadtest.bench import usage
from tests.servers import eventually

# A child that works for 0.3 s and ends, one that works as long and waits, and one that holds 64 MB.
PROGRAM = """
import os, sys, time
def work():
    begun = time.process_time()
    while time.process_time() - begun < 0.3: pass
ended = os.fork()
if not ended:
    work(); os._exit(0)
os.waitpid(ended, 0)
if not os.fork():
    work(); print("ready", flush=True); time.sleep(60); os._exit(0)
if not os.fork():
    held = bytearray(64 * 2**20); time.sleep(60); os._exit(0)
time.sleep(60)
"""


@pytest.fixture
def family() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        for pid in reversed(usage.tree(process.pid)):
            subprocess.run(["kill", "-9", str(pid)], check=True)


def test_the_time_of_children_counts_those_that_ended_too(family: int) -> None:
    assert len(usage.tree(family)) == 3
    assert 0.6 <= usage.cpu_seconds(family) < 1.2


def test_memory_is_that_of_the_whole_tree(family: int) -> None:
    eventually(lambda: usage.pss_bytes(family) > 64 * 2**20)
    assert usage.pss_bytes(family) < 160 * 2**20


@contextmanager
def running(program: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_waits_until_nothing_works_any_more() -> None:
    with running("import time\nwhile time.process_time() < 0.8: pass\ntime.sleep(60)") as pid:
        usage.wait_until_quiet([pid], at_most_seconds=20)
        assert usage.cpu_seconds(pid) > 0.75


def test_does_not_wait_for_ever() -> None:
    with running("while True: pass") as pid:
        begun = time.monotonic()
        usage.wait_until_quiet([pid], at_most_seconds=1)
        assert time.monotonic() - begun < 5
