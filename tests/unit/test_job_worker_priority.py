"""A worker of jobs gives way to replicas."""

from __future__ import annotations

import os
import subprocess
import sys

_PROGRAM = """
import os, threading
from pathlib import Path
from api.job_worker.priority import give_way

release = threading.Event()
thread = threading.Thread(target=release.wait)
thread.start()
give_way(7)
print(os.getpriority(os.PRIO_PROCESS, 0), os.getpriority(os.PRIO_PROCESS, thread.native_id))
group = Path("/proc/self/autogroup")
print(group.read_text().split()[-1] if group.exists() else 7)
release.set()
"""


def test_all_its_threads_and_its_session_do() -> None:
    # In a session of its own, as it cannot be undone.
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, start_new_session=True)
    assert done.stdout.split() == ["7", "7", "7"], done.stderr
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0
