from __future__ import annotations

import os
from pathlib import Path

import pytest

from api.models.cgroups import cpus

ALL = float(len(os.sched_getaffinity(0)))


def quota(root: Path, own: str, **files: str) -> float:
    """Writes files (`__` for /, `_DOT_` for .) below root and counts."""
    for name, content in files.items():
        file = root / name.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (root / "own").write_text(own)
    return cpus(root, root / "own")


def test_version_2_as_a_container_sees_it(tmp_path: Path) -> None:
    assert quota(tmp_path, "0::/\n", cpu_DOT_max="50000 100000\n") == 0.5


def test_version_2_takes_the_smallest_of_its_ancestors(tmp_path: Path) -> None:
    inner = {"a__b__cpu_DOT_max": "max 100000\n", "a__cpu_DOT_max": "25000 100000\n"}

    assert quota(tmp_path, "0::/a/b\n", **inner) == 0.25


def test_version_1(tmp_path: Path) -> None:
    files = {"cpu__cpu_DOT_cfs_quota_us": "50000\n", "cpu__cpu_DOT_cfs_period_us": "100000\n"}

    assert quota(tmp_path, "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n", **files) == 0.5


@pytest.mark.parametrize("unlimited", ["max 100000\n", "rubbish\n", ""])
def test_without_a_quota_it_is_the_cpus_we_may_run_on(tmp_path: Path, unlimited: str) -> None:
    assert quota(tmp_path, "0::/\n", cpu_DOT_max=unlimited) == ALL


def test_a_quota_above_the_machine_changes_nothing(tmp_path: Path) -> None:
    assert quota(tmp_path, "0::/\n", cpu_DOT_max="100000000 100000\n") == ALL


def test_without_cgroups_it_is_the_cpus_we_may_run_on(tmp_path: Path) -> None:
    assert cpus(tmp_path, tmp_path / "missing") == ALL
