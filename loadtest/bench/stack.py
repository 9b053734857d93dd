"""Starts a subject: its stores, its app in gunicorn, and nginx before it, by the scripts that `make run` uses."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
import redis

from api.local.processes import Log, Process
from loadtest.bench import environment, exposition, generated, usage
from loadtest.bench.access_log import AccessLog
from loadtest.bench.loopback import free_ports, get, post
from loadtest.bench.subject import Subject
from loadtest.bench.workloads import Bodies, Case
from loadtest.bench.wrk import CannotMeasure

READY_SECONDS = 90
GUNICORN = "-m gunicorn --config api/gunicorn.conf.py"

Number = TypeVar("Number", int, float)


class Stack:
    """A subject that runs. A context manager: entering launches its stores, leaving stops everything."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        """folder: for its state; on a disk like the one where the prediction log is to live."""
        self.subject = subject
        self.start_seconds = 0.0
        """From the launch of the app to its first answer; the stores were there."""
        models = generated.repository(folder, subject.models) if subject.models else None
        sockets = Path(tempfile.mkdtemp(prefix="shoal-bench-"))  # a socket's path holds 107 characters
        port, *app_ports = free_ports(1 + subject.replicas)
        self._places = environment.Places(folder / subject.name, sockets, models, port, app_ports)
        self._processes: dict[str, Process] = {}
        self._access_log = AccessLog(self._log_of("nginx"))
        self._logged_before = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        (self._places.var / "spool").mkdir(parents=True)
        self._stack.callback(shutil.rmtree, self._places.sockets)
        if self.subject.stores:
            self._launch("postgres", "db/start", signal.SIGINT)
            self._launch("redis", "db/start-redis", signal.SIGTERM)
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    # --- starting -----------------------------------------------------------------------------------------------------
    def start_app(self) -> None:
        """Waits for the stores before, so that nothing is spooled at first, and until all is ready."""
        if self.subject.stores:
            self._wait(self._postgres_answers, "postgres")
            self._wait(self._places.stores.redis_socket.exists, "redis")
        begun = time.monotonic()
        if self.subject.app != "":
            command = "api/start" if self.subject.app is None else f"{sys.executable} {GUNICORN} {self.subject.app}"
            for number, name in enumerate(self._replicas, 1):
                self._launch(name, command, signal.SIGTERM, number)
        self._launch("nginx", environment.nginx_start(self.subject, self._places), signal.SIGQUIT)
        if self.subject.has_replica:
            for name, port in zip(self._replicas, self._places.app_ports, strict=True):
                self._wait(partial(_is_well, port), name)  # each, as nginx answers as soon as one is there
        self._wait(partial(_is_ready, self._places.port), "app" if "app" in self._processes else "nginx")
        self.start_seconds = time.monotonic() - begun

    def prepare(self) -> None:
        """Whatever is to be there, or not to be there, before it is measured.

        Raises:
            CannotMeasure: a store does not take what is to be in it.
        """
        for name in self.subject.stopped:
            self._stop(self._processes.pop(name))
        if self.subject.prepare is not None:
            try:
                self.subject.prepare(self._places.stores)
            except (psycopg.Error, redis.RedisError, OSError) as error:
                raise CannotMeasure(f"{self.subject.name} cannot be prepared: {error}") from error
            usage.wait_until_quiet(self.pids)
        self._logged_before = self.logged_rows() or 0

    def try_out(self, case: Case, bodies: Bodies) -> None:
        """
        Raises:
            CannotMeasure: the answer is not a 200.
        """
        for path in self.paths(case):
            status, text = post(self._places.port, path, bodies.sample(case))
            if status != 200:
                raise CannotMeasure(f"{self.subject.name} answers {case.name} with {status}: {text[:200]!r}")

    # --- measuring ----------------------------------------------------------------------------------------------------
    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._places.port}"

    def paths(self, case: Case) -> Sequence[str]:
        return case.paths(self.subject.models)

    def begin_round(self) -> None:
        if self.subject.before_round is not None:
            self.subject.before_round(self._places.stores)

    def cpu_seconds(self) -> dict[str, float]:
        """Of each of postgres, redis, app and nginx."""
        return self._by_part(usage.cpu_seconds)

    def pss_bytes(self) -> dict[str, int]:
        return self._by_part(usage.pss_bytes)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    @property
    def models(self) -> Path | None:
        """Where the models lie, if they are not the shipped ones."""
        return self._places.models

    def logged_rows(self) -> int | None:
        """Rows that came into `predictions` since it was prepared; None where there is no log."""
        if not (self.subject.stores and self.subject.logs):
            return None
        with psycopg.connect(self._places.stores.dsn) as connection:
            [rows] = connection.execute("SELECT count(*) FROM predictions").fetchone() or [0]
        return int(rows) - self._logged_before

    def metrics(self) -> exposition.Counted:
        """What the replicas have counted; empty where there is none."""
        ports = self._places.app_ports if self.subject.has_replica else ()
        return exposition.read(get(port, "/metrics")[1].decode() for port in ports)

    def proxied_seconds(self) -> float:
        """Mean of a prediction at nginx since the last call; 0 where there is no replica to compare it with."""
        return self._access_log.mean_seconds() if self.subject.has_replica else 0.0

    # --- inside -------------------------------------------------------------------------------------------------------
    @property
    def _replicas(self) -> list[str]:
        numbers = range(1, self.subject.replicas + 1)
        return ["app"] if self.subject.replicas == 1 else [f"app.{number}" for number in numbers]

    def _by_part(self, measure: Callable[[int], Number]) -> dict[str, Number]:
        parts: dict[str, Number] = {}
        for name, process in self._processes.items():
            part = name.partition(".")[0]
            parts[part] = parts.get(part, 0) + measure(process.pid)
        return parts

    def _log_of(self, name: str) -> Path:
        return self._places.var / "log" / f"{name}.log"

    def _launch(self, name: str, command: str, stop: signal.Signals, number: int = 1) -> None:
        log = Log(self._log_of(name), program=name)
        log.begin()
        env = environment.of(self.subject, self._places, number)
        process = Process(name, command, env, log, stop=stop, stop_seconds=30)
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
        with psycopg.connect(self._places.stores.dsn, connect_timeout=2):
            return True


def start(subjects: Iterable[Subject], folder: Path, stack: ExitStack) -> list[Stack]:
    """Starts them, each by itself, and one after the other, so that how long each takes says something; `stack` stops
    them. What they prepare they prepare at the same time."""
    stacks = [stack.enter_context(Stack(subject, folder)) for subject in subjects]
    for each in stacks:
        each.start_app()
    with ThreadPoolExecutor(len(stacks)) as executor:
        for _ in executor.map(Stack.prepare, stacks):
            pass
    return stacks


def _is_well(app_port: int) -> bool:
    return bool(json.loads(get(app_port, "/health")[1])["status"] == "ok")


def _is_ready(port: int) -> bool:
    return get(port, "/health/ready")[0] == 200


def _true(until: Callable[[], Any]) -> bool:
    try:
        return bool(until())
    except (OSError, http.client.HTTPException, psycopg.Error, ValueError, KeyError):
        return False  # not yet
