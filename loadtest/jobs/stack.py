"""`make run` with one replica and one worker of jobs, on ports and state of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_READY_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Running:
    port: int
    folder: Path

    @property
    def dsn(self) -> str:
        return f"host={self.folder}/run user=postgres dbname=predictions"

    @property
    def redis_url(self) -> str:
        return f"unix://{self.folder}/run/redis.sock"


@contextmanager
def running(port: int, **env: str) -> Iterator[Running]:
    """env: further SHOAL_ variables."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-jobs-"))
    log = (folder / "launcher.log").open("w+")
    settings = {"PORT": str(port), "N": "1", "PROMETHEUS_PORT": str(port + 9), "VAR": str(folder)}
    launcher = subprocess.Popen(
        [sys.executable, "-m", "api.local"],
        cwd=ROOT,
        env={**os.environ, "SHOAL_LOG_LEVEL": "WARNING", **settings, **env},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while "shoal: ready in" not in (folder / "launcher.log").read_text():
            if launcher.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "launcher.log").read_text())
            time.sleep(0.1)
        yield Running(port, folder)
    finally:
        launcher.send_signal(signal.SIGINT)
        launcher.wait(90)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)
