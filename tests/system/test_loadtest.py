"""The load generator against a stack: what it leaves behind, and what it makes of a bad one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from loadtest.verdict import OBJECTIVES
from tests.servers import ROOT, JobWorker, Nginx, free_ports
from tests.stack import Stack


@pytest.fixture
def objectives(tmp_path: Path) -> Path:
    """Of the shipped ones those that hold however busy this machine is, and however few requests it makes of 5 s."""
    stated = yaml.safe_load(OBJECTIVES.read_text())
    always = {"max_failure_ratio", "max_hit_rate"}
    kept = {scenario: {name: each[name] for name in each.keys() & always} for scenario, each in stated.items()}
    file = tmp_path / "objectives.yaml"
    file.write_text(yaml.safe_dump(kept))
    return file


def load(port: int, page: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest", "--host", f"http://127.0.0.1:{port}", "--html", str(page), *more]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)


def statistics(page: Path) -> dict[str, dict[str, Any]]:
    """Locust's own, as they stand in its report, by name."""
    [arguments] = re.findall(r"window\.templateArgs = (\{.*\})", page.read_text())
    return {entry["name"]: entry for entry in json.loads(arguments)["requests_statistics"]}


def logged(stack: Stack, ended: subprocess.CompletedProcess[str], what: str) -> Any:
    """What of the rows that the load left in the log."""
    [name] = re.findall(r"requests (load-\w+-)\*", ended.stdout)
    with psycopg.connect(stack.postgres.dsn) as connection:
        query = f"SELECT {what} FROM predictions WHERE starts_with(request_id, %s)"
        return connection.execute(query, (name,)).fetchone()


@pytest.mark.parametrize(
    ("scenario", "model", "more"),
    [
        ("hot", "penguins", []),
        ("zipf", "digits", []),
        ("mixed", "penguins", ["--processes", "2"]),
        ("jobs", "penguins", []),
        ("ramp", "penguins", []),
    ],
)
def test_a_good_stack_keeps_its_objectives(
    stack: Stack, job_worker: JobWorker, objectives: Path, tmp_path: Path, scenario: str, model: str, more: list[str]
) -> None:
    page = tmp_path / "report.html"
    arguments = ["--scenario", scenario, "--model", model, "--users", "8", "--duration", "5s"]

    ended = load(stack.nginx.port, page, *arguments, "--objectives", str(objectives), *more)

    assert ended.returncode == 0, ended.stdout
    counted = statistics(page)
    tiered = [name for name in counted if re.fullmatch(r"\S+ \[(local|redis|coalesced|miss|mixed)\] \d+\.\d%", name)]
    assert sum(counted[name]["num_requests"] for name in tiered) > 50
    assert any("[local]" in name for name in tiered)
    assert counted["Aggregated"]["num_failures"] == 0
    shown = page.read_text()
    for part in (f"Verdict: {scenario} on {model}", "Cache: hit rate", "Answers per second by cache tier", "<rect"):
        assert part in shown
    assert f"Verdict: {scenario} on {model}" in ended.stdout
    assert "MISSED" not in ended.stdout
    assert ("<- knee" in ended.stdout) == (scenario == "ramp")


def test_every_unique_row_is_computed_and_all_that_was_answered_is_in_the_log(
    stack: Stack, objectives: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    arguments = ["--scenario", "unique", "--users", "8", "--duration", "4s", "--processes", "2"]
    arguments += ["--objectives", str(objectives)]

    ended = load(stack.nginx.port, page, *arguments)

    assert ended.returncode == 0, ended.stdout
    requests = statistics(page)["Aggregated"]["num_requests"]
    what = "count(*), count(DISTINCT input_data::text), count(*) FILTER (WHERE cache = 'miss')"
    assert requests > 50
    assert logged(stack, ended, what) == (requests, requests, requests)


def test_a_missed_objective_is_the_exit_code(stack: Stack, tmp_path: Path) -> None:
    objectives = tmp_path / "objectives.yaml"
    objectives.write_text("hot: {max_failure_ratio: 0, p95_seconds: 0.0001}")

    ended = load(
        stack.nginx.port,
        tmp_path / "report.html",
        *("--scenario", "hot", "--users", "2", "--duration", "2s", "--objectives", str(objectives)),
    )

    assert ended.returncode == 1, ended.stdout
    assert re.search(r"failures <= 0\.000% +0\.000% +kept", ended.stdout)
    assert re.search(r"p95 <= 0\.000 s +\d\.\d{3} s +MISSED", ended.stdout)
    assert '<tr class="missed">' in (tmp_path / "report.html").read_text()


def test_a_stack_that_cannot_predict_is_not_loaded(folders: Callable[[], Path], tmp_path: Path) -> None:
    [nobody] = free_ports()
    nginx = Nginx(folders(), [f"127.0.0.1:{nobody}"])
    nginx.start()
    try:
        ended = load(nginx.port, tmp_path / "report.html")
    finally:
        nginx.close()

    assert ended.returncode == 2
    [line] = ended.stdout.splitlines()
    assert line.endswith(f"http://127.0.0.1:{nginx.port} is not ready (502))")
    assert not (tmp_path / "report.html").exists()
