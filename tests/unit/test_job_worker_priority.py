"""A worker of jobs gives way to replicas."""

from __future__ import annotations

import os
import subprocess
import sys

_PROGRAM = """
import os, sys, threading
from pathlib import Path
from api.job_worker.priority import give_way

release = threading.Event()
thread = threading.Thread(target=release.wait)
thread.start()
niceness = int(sys.argv[1])
give_way(niceness)
print(os.getpriority(os.PRIO_PROCESS, 0), os.getpriority(os.PRIO_PROCESS, thread.native_id))
group = Path("/proc/self/autogroup")
print(group.read_text().split()[-1] if group.exists() else niceness)
release.set()
"""


def test_all_its_threads_and_its_session_do() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    nicer = str(min(before + 7, 19))  # it can only go down
    # In a session of its own, as it cannot be undone.
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, nicer], capture_output=True, text=True, start_new_session=True
    )
    assert done.stdout.split() == [nicer] * 3, done.stderr
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
