from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from loadtest.__main__ import locust_command, parse

ROOT = Path(__file__).parents[3]


@pytest.fixture
def unused() -> Iterator[str]:
    """An address where nothing listens: the port is bound, but nobody accepts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_without_a_server_there_is_one_line_and_exit_code_2(unused: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest", "--host", unused], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert f"{unused}: [Errno 111] Connection refused" in ended.stderr
    assert ended.stdout == ""


def test_what_make_leaves_empty_has_its_default() -> None:
    options = parse(["--scenario", "", "--model", "", "--users", "", "--spawn-rate", ""])

    command = locust_command(options, "http://127.0.0.1", "reports/zipf.html")

    assert (options.scenario, options.model, options.users, options.duration) == ("zipf", "penguins", "50", "30s")
    assert command[command.index("--spawn-rate") + 1] == "25.0"
    assert "--processes" not in command


@pytest.mark.parametrize("arguments", [["--scenario", "zip"], ["--model", "iris"]])
def test_an_unknown_choice_names_the_known_ones(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)

    assert ended.value.code == 2
    assert "expected one of" in capsys.readouterr().err


def test_only_the_locustfile_patches_its_process() -> None:
    """pytest runs these modules, and its sockets must stay as they are."""
    modules = ["__main__", "answers", "payloads", "report", "scenarios", "shapes", "tally", "verdict"]
    program = f"import sys\nfor name in {modules}: __import__('loadtest.' + name)\nprint('gevent' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True) == "False\n"


def test_what_is_chosen_is_handed_on_to_locust() -> None:
    chosen = {"scenario": "hot", "model": "digits", "users": "8", "spawn-rate": "2", "processes": "3", "seed": "5"}
    arguments = [word for name, value in chosen.items() for word in (f"--{name}", value)]

    command = locust_command(parse([*arguments, "--duration", "90s"]), "http://127.0.0.1", "reports/hot.html")

    handed_on = dict(pairwise(command))
    assert {name: handed_on[f"--{name}"] for name in chosen} == chosen
    assert handed_on["--run-time"] == "90s"
    assert handed_on["--host"] == "http://127.0.0.1"
    assert handed_on["--html"] == "reports/hot.html"
