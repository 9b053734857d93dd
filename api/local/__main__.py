"""The story of `make run`: check, start everything at once, wait until a prediction is possible, watch, stop in order.

The terminal shows what happens to processes, and their warnings; all that they say is in var/log.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType

from dotenv import load_dotenv

from api.local.processes import Process, Replica
from api.local.replica import import_shared
from api.local.stack import ROOT, CannotRun, Lock, Options, check_ports, processes
from api.models.repository import read_manifest
from api.settings import Settings

READY_SECONDS = 90
# A process that ran this long when it ended is started again, as compose would. Before, something is wrong with it,
# and starting it over and over would only hide what.
SETTLED_SECONDS = 10
NOTABLE_LINES = 5  # of one process at a time; the rest is counted
LEFTOVER_SECONDS = 40  # what is left of an earlier run has this long to stop


def say(line: str) -> None:
    print(f"shoal: {line}", flush=True)


class Launcher:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.lock = Lock(options.var)
        self.processes = processes(options)
        self.interrupts = 0

    def run(self) -> None:
        """Returns when it was asked to stop and everything has stopped.

        Raises:
            CannotRun: a check failed or a process ended; everything has stopped.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._interrupt)
        started = time.monotonic()
        self.lock.take(LEFTOVER_SECONDS)
        check_ports(self.options)
        try:
            self.start()
            if self.wait_until_ready():
                self.greet(time.monotonic() - started)
                self.watch()
        finally:
            self.stop()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupts += 1

    def start(self) -> None:
        """The servers, and the replicas as soon as torch is imported; by then Postgres and Redis answer."""
        names = ", ".join(process.name for process in self.processes)
        say(f"starting {names}; what they say is in {_short(self.options.var / 'log')}")
        if not self.options.prometheus:
            say("without Prometheus: none is on PATH; prometheus/fetch gets Debian's without root")
        for process in sorted(self.processes, key=lambda process: isinstance(process, Replica)):
            process.log.begin()
            if isinstance(process, Replica):
                import_shared()  # at once but for the first
            process.start(self.lock.fd)

    def wait_until_ready(self) -> bool:
        """True once every replica can predict and nginx passes requests on; False when asked to stop before."""
        ports = [self.options.replica_port(number) for number in range(1, self.options.replicas + 1)]
        deadline = time.monotonic() + READY_SECONDS
        for port in [*ports, self.options.worker_port, self.options.port]:
            while not _answers(f"http://127.0.0.1:{port}/health/ready"):
                if self.interrupts:
                    return False
                for process in self.processes:
                    if not process.running:
                        raise CannotRun(f"{process.name} {process.end} before all was ready:\n{process.log.tail()}")
                if time.monotonic() > deadline:
                    raise CannotRun(f"port {port} did not answer within {READY_SECONDS} s:\n{self._why()}")
                time.sleep(0.05)
        return True

    def _why(self) -> str:
        return "\n".join(f"--- {each.name}\n{each.log.tail(5)}" for each in self.processes)

    def greet(self, seconds: float) -> None:
        options, url = self.options, f"http://localhost:{self.options.port}"
        settings = Settings()
        example = json.dumps({"features": read_manifest(settings.model_repository / settings.default_model).example})
        key = "-H 'X-API-Key: YOUR KEY' " if settings.keys_file else ""
        say(f"""ready in {seconds:.1f} s

  curl -X POST {url}/predict {key}-H 'Content-Type: application/json' -d '{example}'

  API          {url}/docs
  Prometheus   {f"http://localhost:{options.prometheus_port}" if options.prometheus else "none"}
  Predictions  psql -h {options.sockets} -U postgres -d predictions -c 'TABLE predictions LIMIT 10'
  Logs         tail -f {_short(options.var)}/log/*.log
  Ctrl-C drains and stops it all; predictions and cache are kept for the next run.
""")

    def watch(self) -> None:
        """Until asked to stop: show warnings, and start again what ended.

        Raises:
            CannotRun: a process ended shortly after it was started.
        """
        while not self.interrupts:
            for process in self.processes:
                self._show(process)
                if not process.running and not self.interrupts:
                    self._revive(process)
            time.sleep(0.2)

    def _show(self, process: Process) -> None:
        lines = process.log.notable()
        for line in lines[:NOTABLE_LINES]:
            say(f"{process.name}: {_message(line)}")
        if len(lines) > NOTABLE_LINES:
            say(f"{process.name}: and {len(lines) - NOTABLE_LINES} more lines in {_short(process.log.path)}")

    def _revive(self, process: Process) -> None:
        if time.monotonic() - process.started < SETTLED_SECONDS:
            raise CannotRun(f"{process.name} {process.end} right after its start:\n{process.log.tail()}")
        say(f"{process.name} {process.end}; starting it again (its log: {_short(process.log.path)})")
        process.kill()
        process.start(self.lock.fd)

    def stop(self) -> None:
        """In reverse: nginx takes no more requests and finishes those it has, then the replicas drain and write their
        log, then the stores stop. Asked again, it stops waiting."""
        started = time.monotonic()
        waiting_for = [process for process in reversed(self.processes) if process.running]
        if waiting_for:
            say("stopping; Ctrl-C again to stop at once")
        already = self.interrupts
        for _, group in groupby(waiting_for, key=lambda process: process.name.split(".")[0]):
            members = list(group)
            for process in members:
                process.stop()
            for process in members:
                self._wait(process, lambda: self.interrupts > already)
        for process in self.processes:
            process.kill()
        if waiting_for:
            say(f"stopped in {time.monotonic() - started:.1f} s")

    def _wait(self, process: Process, hurry: Callable[[], bool]) -> None:
        deadline = time.monotonic() + process.stop_seconds
        while process.running:
            if hurry():
                return
            if time.monotonic() > deadline:
                say(f"{process.name} did not stop within {process.stop_seconds:.0f} s and is killed")
                return
            time.sleep(0.02)


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:  # noqa: S310  our own address
            return bool(reply.status == 200)
    except OSError:
        return False


def _message(line: str) -> str:
    """What a line says, without the rest of its JSON."""
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    text = fields.get("message") or " ".join(f"{key}={fields[key]}" for key in ("outcome", "path", "request_id"))
    return f"{fields['level'].upper()} {text}"


def _number(name: str, default: int, at_least: int, at_most: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not at_least <= int(text) <= at_most:
        raise CannotRun(f"{name}={text} is not a number from {at_least} to {at_most}")
    return int(text)


def options() -> Options:
    return Options(
        port=_number("PORT", 8080, 1, 65_000),
        replicas=_number("N", 3, 1, 64),
        prometheus_port=_number("PROMETHEUS_PORT", 9090, 1, 65_535),
        var=Path(os.environ.get("VAR") or ROOT / "var").resolve(),
        prometheus=shutil.which("prometheus", path=f"{os.environ['PATH']}:{sys.prefix}/bin") is not None,
    )


def main() -> int:
    os.chdir(ROOT)
    load_dotenv(ROOT / ".env")  # as compose does; what the shell has set wins
    try:
        Launcher(options()).run()
    except CannotRun as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
