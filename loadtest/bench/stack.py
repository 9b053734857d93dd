"""Starts a subject: its stores, its app in gunicorn, and nginx before it, by the scripts that `make run` uses."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from api.local import replica
from api.local.processes import Log, Process
from loadtest.bench import usage
from loadtest.bench.workloads import Bodies, Case
from loadtest.bench.wrk import CannotMeasure

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 90
GUNICORN = "-m gunicorn --config api/gunicorn.conf.py"
# Two workers in all, as there are two cores, and in one replica: what is compared is then the same one gunicorn with
# two workers behind the same nginx, and no subject differs from another in how its requests are spread.
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    app: for gunicorn; "" is nginx alone, None a replica by its own start script. is_replica: whether it has a replica's
    settings, routes and metrics. logs: whether each answered row must be in `predictions`. stopped: processes that are
    stopped again once all is up.
    """

    name: str
    about: str
    app: str | None = None
    stores: bool = True
    is_replica: bool | None = None
    logs: bool = True
    stopped: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)


class Stack:
    """A subject that runs. A context manager: entering launches its stores, leaving stops everything."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        """folder: for its state; on a disk like the one where the prediction log is to live."""
        self.subject = subject
        self.is_replica = subject.app is None if subject.is_replica is None else subject.is_replica
        self._var = folder / subject.name
        self._sockets = Path(tempfile.mkdtemp(prefix="shoal-bench-"))  # a socket's path holds 107 characters
        self.port, self.app_port = _free_ports(2)
        self._processes: dict[str, Process] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._var.mkdir(parents=True)
        self._stack.callback(shutil.rmtree, self._sockets)
        if self.subject.stores:
            self._launch("postgres", "db/start", signal.SIGINT)
            self._launch("redis", "db/start-redis", signal.SIGTERM)
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    # --- starting -----------------------------------------------------------------------------------------------------
    def launch_app(self) -> None:
        """Waits for the stores, so that nothing is spooled at first."""
        if self.subject.stores:
            self._wait(self._postgres_answers, "postgres")
            self._wait((self._sockets / "redis.sock").exists, "redis")
        if self.subject.app != "":
            command = "api/start" if self.subject.app is None else f"{sys.executable} {GUNICORN} {self.subject.app}"
            self._launch("app", command, signal.SIGTERM)
        self._launch("nginx", self._nginx_start(), signal.SIGQUIT)

    def wait_until_ready(self) -> None:
        self._wait(lambda: get(self.port, "/health/ready")[0] == 200, "app" if "app" in self._processes else "nginx")
        if self.is_replica:
            self._wait(lambda: json.loads(get(self.app_port, "/health")[1])["status"] == "ok", "app")
        for name in self.subject.stopped:
            self._stop(self._processes.pop(name))

    def try_out(self, case: Case, bodies: Bodies) -> None:
        """
        Raises:
            CannotMeasure: the answer is not a 200.
        """
        status, text = post(self.port, case.path, bodies.sample(case))
        if status != 200:
            raise CannotMeasure(f"{self.subject.name} answers {case.name} with {status}: {text[:200]!r}")

    # --- measuring ----------------------------------------------------------------------------------------------------
    def cpu_seconds(self) -> dict[str, float]:
        return {name: usage.cpu_seconds(pid) for name, pid in self.pids.items()}

    def pss_bytes(self) -> dict[str, int]:
        return {name: usage.pss_bytes(pid) for name, pid in self.pids.items()}

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def logged_rows(self) -> int | None:
        """Rows in `predictions`; None where there is no log."""
        if not (self.subject.stores and self.subject.logs):
            return None
        with psycopg.connect(self._dsn) as connection:
            [rows] = connection.execute("SELECT count(*) FROM predictions").fetchone() or [0]
        return int(rows)

    def metrics(self) -> str:
        """The replica's exposition; empty where there is none."""
        if not self.is_replica:
            return ""
        return get(self.app_port, "/metrics")[1].decode()

    # --- inside -------------------------------------------------------------------------------------------------------
    @property
    def _dsn(self) -> str:
        return f"host='{self._sockets}' user=postgres dbname=predictions"

    def _env(self) -> dict[str, str]:
        places = {"VAR": str(self._var), "SOCKETS": str(self._sockets), "VENV": sys.prefix}
        shoal = {"SHOAL_BIND": f"127.0.0.1:{self.app_port}", "SHOAL_WORKERS": str(WORKERS)}
        nginx = {
            "NGINX_LISTEN": f"127.0.0.1:{self.port}",
            "NGINX_UPSTREAMS": f"127.0.0.1:{self.app_port}",
            "NGINX_RATE_LIMIT": "1000000r/s",  # the load is one address; its default is near the proxy limit
            "NGINX_RATE_BURST": "100000",
        }
        ours = {
            "BENCH_REDIS_URL": f"unix://{self._sockets}/redis.sock",
            "BENCH_POSTGRES_DSN": self._dsn,
            "PYTHONPATH": str(ROOT),
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SHOAL_", "NGINX_"))}
        env = inherited | places | shoal | nginx | ours | self.subject.env
        if self.is_replica:
            env = replica.settings(env) | env
            Path(env["SHOAL_SPOOL_DIR"]).mkdir(parents=True, exist_ok=True)
        return env

    def _nginx_start(self) -> str:
        if self.subject.app != "":
            return "nginx/start"
        # nginx by itself: the same configuration, and a location that answers without an upstream.
        folder = self._var / "nginx-constant"
        shutil.copytree(ROOT / "nginx", folder)
        conf = folder / "conf.d" / "api.conf"
        text = conf.read_text()
        constant = json.dumps(CONSTANT, separators=(",", ":"))
        location = f"    location ~ ^/ {{ default_type application/json; return 200 '{constant}'; }}\n"
        conf.write_text(text.replace("    location / {\n", f"{location}    location / {{\n", 1))
        if location not in conf.read_text():
            raise CannotMeasure("nginx/conf.d/api.conf has no `location /` to put the constant before")
        return str(folder / "start")

    def _launch(self, name: str, command: str, stop: signal.Signals) -> None:
        log = Log(self._var / "log" / f"{name}.log", program=name)
        log.begin()
        process = Process(name, command, self._env(), log, stop=stop, stop_seconds=30)
        with open(os.devnull) as nothing:
            process.start(nothing.fileno())
        self._processes[name] = process
        self._stack.callback(self._stop, process)

    def _stop(self, process: Process) -> None:
        process.stop()
        deadline = time.monotonic() + process.stop_seconds
        while process.running and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()

    def _wait(self, until: Callable[[], object], name: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        process = self._processes[name]
        while not _true(until):
            if not process.running or time.monotonic() > deadline:
                raise CannotMeasure(f"{name} of {self.subject.name} does not get ready:\n{process.log.tail()}")
            time.sleep(0.05)

    def _postgres_answers(self) -> bool:
        with psycopg.connect(self._dsn, connect_timeout=2):
            return True


# As long as a real answer.
CONSTANT = {
    "id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "prediction": 0,
    "label": "Adelie",
    "confidence": 0.998877,
    "model": "penguins",
    "version": "2",
    "cached": True,
}


def start(subjects: Iterable[Subject], folder: Path, stack: ExitStack) -> list[Stack]:
    """Starts them all at once, each by itself; `stack` stops them."""
    stacks = [stack.enter_context(Stack(subject, folder)) for subject in subjects]
    for each in stacks:
        each.launch_app()
    for each in stacks:
        each.wait_until_ready()
    return stacks


def get(port: int, path: str) -> tuple[int, bytes]:
    return _ask(port, "GET", path, None)


def post(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    return _ask(port, "POST", path, body)


def _ask(port: int, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def _true(until: Callable[[], Any]) -> bool:
    try:
        return bool(until())
    except (OSError, http.client.HTTPException, psycopg.Error, ValueError):
        return False  # not yet


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
