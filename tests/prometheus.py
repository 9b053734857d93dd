"""Prometheus and promtool for tests: those on PATH, else the ones that prometheus/fetch gets without root."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.servers import ROOT, Server


def tool(name: str) -> Path:
    """The path of `prometheus` or `promtool`.

    Raises:
        AssertionError: neither here nor to be had; says what to install.
    """
    fetched = Path(sys.prefix) / "bin" / name
    if found := shutil.which(name):
        return Path(found)
    with (Path(tempfile.gettempdir()) / f"shoal-fetch-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of pytest-xdist's workers fetches, the others wait
        if not fetched.exists():
            fetch = subprocess.run(
                [ROOT / "prometheus" / "fetch"], env={**os.environ, "VENV": sys.prefix}, capture_output=True, text=True
            )
            assert fetch.returncode == 0, fetch.stderr
    return fetched


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, timeout=60)


class Prometheus(Server):
    """A Prometheus that scrapes the given replicas, as `make run` starts it."""

    def __init__(self, folder: Path, *, port: int, replicas: list[str], workers: list[str]) -> None:
        """replicas, workers: host:port of each."""
        self.url = f"http://127.0.0.1:{port}"
        tool("prometheus")  # where start looks for it
        env = {"REPLICAS": ",".join(replicas), "JOB_WORKERS": ",".join(workers), "PROMETHEUS_PORT": str(port)}
        super().__init__([str(ROOT / "prometheus" / "start")], folder, ready=self._answers, env=env)

    def _answers(self) -> bool:
        with urlopen(f"{self.url}/-/ready", timeout=2) as response:
            return bool(response.status == 200)

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """The samples that an expression finds now: labels and value."""
        with urlopen(f"{self.url}/api/v1/query?{urlencode({'query': expr})}", timeout=5) as response:
            found = json.load(response)["data"]["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]
