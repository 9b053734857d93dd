"""How many threads a model run gets in a container with limits: of the real kernel, not of files made for a test."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.servers import ROOT

CPUS = len(os.sched_getaffinity(0))
COUNT = "from api.models.cgroups import cpus; print(cpus())"


def in_container(limits: str) -> float:
    """What cgroups.py counts in a container of the replicas' base image. The package lies beside it; torch does not."""
    [base] = re.findall(r"^FROM (\S+)$", (ROOT / "api/Dockerfile").read_text(), re.MULTILINE)
    command = ["docker", "run", "--rm", *limits.split(), "--network", "none", "--volume", f"{ROOT}/api:/srv/api:ro"]
    command += ["--workdir", "/srv", base, "python", "-c", COUNT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize(
    ("limits", "cpus"),
    [
        ("", CPUS),
        ("--cpus 0.5", 0.5),
        ("--cpus 1", 1),
        ("--cpuset-cpus 0", 1),
        ("--cpuset-cpus 0 --cpus 0.5", 0.5),
        pytest.param("--cpus 1.5", 1.5, marks=pytest.mark.skipif(CPUS < 2, reason="needs two CPUs")),
    ],
)
def test_a_quota_and_a_set_of_cpus_are_seen_from_inside(limits: str, cpus: float) -> None:
    assert in_container(limits) == cpus
