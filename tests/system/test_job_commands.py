"""Jobs from the command line, against the stack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT, JobWorker
from tests.stack import Stack


def run(stack: Stack, *arguments: str | Path, rows: bytes | None = None) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "api",
        "jobs",
        "--url",
        f"http://127.0.0.1:{stack.nginx.port}",
        *map(str, arguments),
    ]
    done = subprocess.run(command, cwd=ROOT, input=rows, capture_output=True, timeout=60)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_rows_are_submitted_watched_and_answered(stack: Stack, job_worker: JobWorker, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("bill_length_mm,bill_depth_mm,flipper_length_mm\n" + "39.1,18.7,181.0\n46.5,17.9,192.0\n" * 2000)

    submitted = run(stack, "submit", file, "--priority", "high", "--watch")
    id = submitted.stdout.strip()
    assert submitted.returncode == 0, submitted.stderr
    assert submitted.stderr.splitlines() == ["4000 rows for penguins/2", "done: 4000 of 4000 rows"]
    answers = [json.loads(line) for line in run(stack, "results", id).stdout.splitlines()]
    assert [answer["row"] for answer in answers] == list(range(4000))
    assert [answer["label"] for answer in answers[:2]] == ["Adelie", "Chinstrap"]
    csv = tmp_path / "answers.csv"
    assert run(stack, "results", id, "--format", "csv", "--output", csv).returncode == 0
    assert csv.read_text().count("\n") == 4001
    assert run(stack, "watch", id).returncode == 0  # of one that has ended
    assert f"{id}  " in run(stack, "list", "--state", "done").stdout
    again = run(stack, "cancel", id)
    assert (again.returncode, again.stderr) == (2, "error: 409: the job is done already\n")


def test_the_same_key_is_the_same_job(stack: Stack, job_worker: JobWorker, tmp_path: Path) -> None:
    file = tmp_path / "rows.ndjson"
    file.write_text("[39.1,18.7,181.0]\n")
    first, second = [run(stack, "submit", file, "--key", "the-same") for _ in range(2)]
    assert first.stdout == second.stdout != ""
    piped = run(stack, "submit", "-", "--format", "ndjson", "--key", "the-same", rows=file.read_bytes())
    assert piped.stdout == first.stdout


@pytest.mark.parametrize(
    ("arguments", "rows", "says"),
    [
        (("submit", "-"), b"", "--format is needed"),
        (("submit", "-", "--format", "csv"), b"1,2,3\n1,2\n", "422: expected 3 features per row, got 2 (row 1)"),
        (("submit", "nothing.csv"), b"", "nothing.csv: No such file or directory"),
        (("watch", "01a20abb-82e9-7aa5-9208-7c5fb02a369a"), b"", "404: expected the id of a job"),
        (("requeue", "01a20abb-82e9-7aa5-9208-7c5fb02a369a"), b"", "404: expected the id of a job"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(stack: Stack, arguments: tuple[str, ...], rows: bytes, says: str) -> None:
    answer = run(stack, *arguments, rows=rows)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ")
    assert says in answer.stderr
    assert answer.stderr.count("\n") == 1
