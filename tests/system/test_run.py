"""`make run`: what the terminal says, and what is left when it ends in whatever way."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest

from api.__main__ import main
from api.local.__main__ import SETTLED_SECONDS
from tests.load import Load
from tests.servers import eventually, status_of
from tests.stack import Launcher


@pytest.fixture(scope="module")
def launcher(folders: Callable[[], Path]) -> Iterator[Launcher]:
    """Two replicas. The tests of this module are one story; each leaves it running."""
    launcher = Launcher(folders(), replicas=2)
    try:
        launcher.start()
        yield launcher
    finally:
        launcher.close()


def predict(launcher: Launcher) -> str:
    with Load("127.0.0.1", launcher.port, clients=1) as load:
        eventually(lambda: load.answered)
    assert load.report.failures == []
    return load.report.ids[0]


def test_the_curl_it_prints_works_and_the_second_time_from_the_cache(launcher: Launcher) -> None:
    [command] = re.findall(r"^  (curl .*)$", launcher.output, re.MULTILINE)

    def cached() -> bool:
        return bool(json.loads(subprocess.check_output([*shlex.split(command), "--silent"]))["cached"])

    assert not cached()
    # Nearly always the second. On a busy machine Redis may not have it yet, or take longer than its budget.
    eventually(cached)


def test_one_admin_token_opens_all_its_replicas(launcher: Launcher, capsys: pytest.CaptureFixture[str]) -> None:
    token = launcher.folder / "admin_token"
    assert token.stat().st_mode & 0o777 == 0o600
    for number in (1, 2):
        address = f"127.0.0.1:{launcher.port + number}"
        assert main(["flush", "penguins", "--replica", address, "--token-file", str(token)]) == 0
        # Two of each replica, and the worker of jobs.
        assert (
            capsys.readouterr().out == "flushed all versions of penguins: 5 workers left its answers behind, 0 hang\n"
        )


def test_with_keys_on_the_curl_says_where_one_goes(folders: Callable[[], Path]) -> None:
    launcher = Launcher(folders(), SHOAL_KEYS_FILE="keys-that-are-nowhere")
    try:
        launcher.start()
        assert "-H 'X-API-Key: YOUR KEY'" in launcher.output
        assert status_of(launcher.port, "/models") == 401
    finally:
        launcher.close()


def test_a_second_one_on_the_same_state_is_refused(launcher: Launcher) -> None:
    second = Launcher(launcher.folder)
    second.log = launcher.folder / "second"
    second.launch()
    assert second.wait(20) == 1
    assert f"another `make run` (process {launcher.pid}) uses {launcher.folder}" in second.output
    assert status_of(launcher.port, "/health/ready") == 200


def test_a_port_in_use_is_one_line_and_nothing_starts(folders: Callable[[], Path]) -> None:
    launcher = Launcher(folders())
    with socket.create_server(("127.0.0.1", launcher.port + 1)):
        launcher.launch()
        assert launcher.wait(20) == 1
    [line] = launcher.output.splitlines()
    assert re.fullmatch(rf"shoal: port {launcher.port + 1} is in use by .*; choose another with PORT=", line)
    assert launcher.members() == []


def test_a_replica_that_cannot_start_is_said_and_the_rest_is_stopped(folders: Callable[[], Path]) -> None:
    launcher = Launcher(folders(), SHOAL_WORKERS="none")
    launcher.launch()
    assert launcher.wait(60) == 1
    assert re.search(r"^shoal: api\.1 exited with status \d+ before all was ready:$", launcher.output, re.MULTILINE)
    assert launcher.members() == []


def settled(launcher: Launcher) -> psutil.Process:
    """The first replica, once it has run long enough to be started again when it ends."""
    replica = launcher.replica(1)
    # One second more, as the kernel counts from a boot time in whole seconds.
    age = SETTLED_SECONDS + 1
    eventually(lambda: time.time() - replica.create_time() > age, within_seconds=age + 10)
    return replica


def test_a_replica_that_is_killed_is_started_again_and_costs_no_request(launcher: Launcher) -> None:
    replica = settled(launcher)
    with Load("127.0.0.1", launcher.port) as load:
        eventually(lambda: load.answered > 100, within_seconds=30)
        replica.kill()
        eventually(lambda: "shoal: api.1 was killed by SIGKILL; starting it again" in launcher.output)
        eventually(lambda: status_of(launcher.port + 1, "/health/ready") == 200, within_seconds=40)
    assert load.report.failures == [], str(load.report)


def test_ctrl_c_stops_everything_and_the_next_run_goes_on_with_the_rows(launcher: Launcher) -> None:
    before = predict(launcher)

    assert launcher.stop() == 0
    assert launcher.members() == []
    launcher.start()

    after = predict(launcher)
    with psycopg.connect(launcher.dsn) as connection:
        ids = {str(id) for (id,) in connection.execute("SELECT id FROM predictions").fetchall()}
    assert {before, after} <= ids


def test_nothing_outlives_a_launcher_that_is_killed_and_the_next_run_works(launcher: Launcher) -> None:
    launcher.process.send_signal(signal.SIGKILL)
    launcher.wait(10)

    launcher.start()  # at once: it waits for what is left to stop

    assert predict(launcher)
    eventually(lambda: len({member.ppid() for member in launcher.members()} & {1}) == 0)


def test_a_second_ctrl_c_does_not_wait(launcher: Launcher) -> None:
    # A request that never ends would hold up the drain.
    with socket.create_connection(("127.0.0.1", launcher.port)) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 100")
        launcher.process.send_signal(signal.SIGINT)
        eventually(lambda: "shoal: stopping" in launcher.output)
        launcher.process.send_signal(signal.SIGINT)
        assert launcher.wait(5) == 0
    assert eventually(lambda: launcher.members() == [])
    launcher.start()


def test_a_process_that_ends_again_right_after_its_start_ends_it_all(launcher: Launcher) -> None:
    settled(launcher).kill()
    eventually(lambda: "starting it again" in launcher.output)
    eventually(lambda: launcher.replica(1)).kill()

    assert launcher.wait(60) == 1
    assert "shoal: api.1 was killed by SIGKILL right after its start:" in launcher.output
    assert launcher.members() == []
