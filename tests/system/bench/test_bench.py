"""The benchmark itself: that it measures, and says what it measured. Not how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.bench import measure
from loadtest.bench.experiments import LIMIT, Experiment
from loadtest.bench.subject import Subject
from loadtest.bench.workloads import Case
from tests.servers import ROOT


def bench(reports: Path, *arguments: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest.bench", "--reports", str(reports), *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
    )


def test_it_measures_every_subject_and_writes_what_it_saw(tmp_path: Path) -> None:
    chart = tmp_path / "results.svg"
    ended = bench(tmp_path, "--only", "penguins", "--rounds", "1", "--seconds", "1", "--chart", str(chart))

    assert ended.returncode in (0, 1), ended.stdout  # a bar may be missed, above all while tests share the machine
    [report] = tmp_path.glob("*.json")
    measured = json.loads(report.read_text())
    machine = measured["machine"]
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert machine["kernel"].startswith("Linux")
    assert machine["packages"]["torch"]
    assert "wrk" in machine["wrk"]
    cells = {(cell["subject"], cell["workload"]): cell for cell in measured["cells"]}
    subjects, workloads = ("shoal", "ceiling", "tutorial", "proxy"), ("hit", "miss", "zipf")
    assert set(cells) == {(subject, workload) for subject in subjects for workload in workloads}
    for (subject, workload), cell in cells.items():
        assert cell["invalid_rounds"] == 0, (subject, workload)
        [only] = cell["rounds"]
        assert only["requests"] > 0
        assert 0 < cell["median"]["p50_seconds"] <= cell["median"]["p99_seconds"]
        assert 0 < cell["median"]["cpu_seconds_per_request"] < 0.1
        assert cell["start_seconds"] > 0
        assert 0 < only["generator_cpu_seconds"] < 3
        assert 0 <= only["foreign_cpu_seconds"] <= only["capacity_seconds"]
        has = {"nginx"} if subject == "proxy" else {"nginx", "app"}
        assert set(only["pss_bytes"]) == has | ({"postgres", "redis"} if subject in ("shoal", "tutorial") else set())
    for workload, tier in (("hit", "local"), ("miss", "miss")):
        [only] = cells["shoal", workload]["rounds"]
        # All that was asked came from there, or the workload is not what it says.
        assert set(only["tiers"]) == {tier}
        assert only["tiers"][tier] >= only["requests"]
        # The replica's clocks and nginx's are others, so this also says that none of them counts anything twice.
        stages = sum(seconds for stage, seconds in only["stages"].items() if stage != "requests")
        assert 0.5 < stages / only["stages"]["requests"] / only["proxied_seconds"] < 1.2
    assert {bar["what"] for bar in measured["bars"]} >= {
        "hit, requests/s against ceiling",
        "zipf, requests/s against tutorial",
        "hit, of a request's time in no stage",
    }
    assert "hit, requests/s against ceiling" in ended.stdout
    page = report.with_suffix(".html").read_text()
    assert page.count("<svg") == 3
    assert machine["cpu"] in page
    assert machine["cpu"] in chart.read_text()


def test_shoal_with_a_part_taken_away_still_answers_what_it_is_asked(tmp_path: Path) -> None:
    ended = bench(tmp_path, "--only", "log,redis", "--rounds", "1", "--seconds", "1")

    assert ended.returncode in (0, 1), ended.stdout
    [report] = tmp_path.glob("*.json")
    rounds = {
        (cell["experiment"], cell["subject"], cell["workload"]): cell["rounds"][0]
        for cell in json.loads(report.read_text())["cells"]
    }
    assert all(each["valid"] for each in rounds.values())
    # What waits for the log is more than nothing with it, and next to nothing without.
    waits = {
        subject: rounds["log", subject, "hit"]["stages"]["log"] / rounds["log", subject, "hit"]["requests"]
        for subject in ("shoal", "unlogged")
    }
    assert waits["unlogged"] < waits["shoal"] / 5
    assert set(rounds["redis", "without-redis", "miss"]["cpu_seconds"]) == {"postgres", "app", "nginx"}
    assert set(rounds["redis", "shoal", "miss"]["cpu_seconds"]) == {"postgres", "redis", "app", "nginx"}


def test_what_grows_is_compared_with_the_smallest(tmp_path: Path) -> None:
    ended = bench(tmp_path, "--only", "growth-rows", "--sizes", "1000", "--rounds", "1", "--seconds", "1")

    assert ended.returncode == 0, ended.stdout  # there are bars for its usual sizes only
    [report] = tmp_path.glob("*.json")
    cells = json.loads(report.read_text())["cells"]
    assert [cell["subject"] for cell in cells] == ["1k-rows", "1k-rows-today"] * 2
    assert all(only["valid"] for cell in cells for only in cell["rounds"])
    assert "growth-rows: in parts of the first" in ended.stdout


def test_all_replicas_and_all_models_of_a_subject_are_measured(tmp_path: Path) -> None:
    experiment = Experiment(
        "both",
        "",
        [Subject("both", "", replicas=2, models=("penguins-1", "penguins-2"), env={"SHOAL_WORKERS": "1"})],
        [Case("penguins-1", "miss", 64, everyone=True)],
        with_limit=True,
    )
    cells = {cell.subject: cell for cell in measure.run(experiment, measure.Effort(1, 1), tmp_path, print)}

    [ours], [limit] = cells["both"].rounds, cells[LIMIT].rounds
    assert ours.is_valid
    assert sorted(log.name for log in (tmp_path / "both" / "log").glob("app*")) == ["app.1.log", "app.2.log"]
    # Those of one replica, or one model, would be about half.
    assert ours.tiers.keys() == {"miss"}
    assert ours.tiers["miss"] >= ours.load.requests
    assert set(ours.cpu_seconds) == set(ours.pss_bytes) == {"postgres", "redis", "app", "nginx"}
    assert limit.load.requests > 10_000
    assert 0.9 < limit.load.seconds < 5


@pytest.mark.parametrize(
    ("arguments", "path", "said"),
    [
        ([], "/nowhere", "bench: the load generator wrk is not on PATH"),
        (["--only", "walruses"], os.environ["PATH"], "--only: expected some of penguins"),
    ],
)
def test_what_keeps_it_from_measuring_is_one_line(tmp_path: Path, arguments: list[str], path: str, said: str) -> None:
    ended = bench(tmp_path, *arguments, path=path)

    assert ended.returncode == 2
    assert said in ended.stdout.splitlines()[-1]
    assert not list(tmp_path.iterdir())
