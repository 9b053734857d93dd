"""Replicas first: what a worker of jobs gets of a busy CPU is what they leave."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def give_way(niceness: int) -> None:
    """Lowers the priority of this process, for good. In compose its container has a small weight as well.

    To be called once it has started: on a busy machine its start would take minutes.
    """
    # Of each thread, as each has its own, those of torch too; threads that are begun later have their parent's.
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended, or is nicer already
            os.setpriority(os.PRIO_PROCESS, int(thread.name), niceness)
    # Where the kernel groups processes by session (a desktop, a plain server), niceness counts within the session only,
    # and the session has its own. In a container's cgroup this changes nothing. See sched(7), "The autogroup feature".
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness))
