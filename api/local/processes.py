"""One process of the stack: started by its script, stopped with its signal, its log followed."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from api.local import replica, worker

LOG_BYTES = 64 * 1024 * 1024
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None)

# What of a log is worth the terminal: warnings and worse, in the words of each server. Redis' are about the machine.
_NOTABLE = {
    "api": re.compile(rb'"level":"[wec]'),
    "worker": re.compile(rb'"level":"[wec]'),
    "nginx": re.compile(rb" \[(?:alert|emerg|crit|error)\] "),
    "postgres": re.compile(rb" (?:WARNING|ERROR|FATAL|PANIC): "),
    "prometheus": re.compile(rb"level=(?:WARN|ERROR|warn|error)"),
}
_NOTHING = re.compile(rb"(?!)")


class Log:
    """A process's output on disk. The process writes to it by itself, so the launcher never slows it down."""

    def __init__(self, path: Path, program: str) -> None:
        self.path = path
        self._notable = _NOTABLE.get(program, _NOTHING)
        self._read_bytes = 0

    def begin(self) -> None:
        """A new file; that of the run before is kept beside it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self.path.replace(self.path.with_suffix(".log.1"))
        self.path.touch()
        self._read_bytes = 0

    def notable(self) -> list[str]:
        """Lines since the last call that are a warning or worse. Bounds the file on the way."""
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            text = file.read(LOG_BYTES)
        complete = text.rfind(b"\n") + 1
        self._read_bytes += complete
        # Searched as a whole: under load there are thousands of lines a second, and hardly any of these among them.
        starts = {text.rfind(b"\n", 0, match.start()) + 1 for match in self._notable.finditer(text, 0, complete)}
        lines = [text[start : text.find(b"\n", start)] for start in sorted(starts)]
        if self._read_bytes > LOG_BYTES:
            # Its writer has it open to append, so that a file cut to nothing goes on at its start.
            shutil.copyfile(self.path, self.path.with_suffix(".log.1"))
            os.truncate(self.path, 0)
            self._read_bytes = 0
        return [line.decode(errors="replace") for line in lines]

    def tail(self, lines: int = 15) -> str:
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


class Running(Protocol):
    """What is asked of a child: a part of subprocess.Popen."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...


class Forked:
    """A child that is a copy of this process, as a `Running`."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=run)
        self._process.start()
        assert self._process.pid is not None  # noqa: S101  it has been started
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None  # noqa: S101  it has ended
        return self._process.exitcode


class Process:
    """A line of the Procfile, run by its command."""

    def __init__(
        self, name: str, command: str, env: dict[str, str], log: Log, *, stop: signal.Signals, stop_seconds: float
    ) -> None:
        """stop: the signal that makes it finish what it has and end, within stop_seconds."""
        self.name = name
        self.command = command
        self.env = env
        self.log = log
        self.stop_seconds = stop_seconds
        self._stop = stop
        self._child: Running | None = None
        self.started = 0.0

    def start(self, keep_open: int) -> None:
        """keep_open: a file descriptor that the process inherits; see stack.Lock."""
        self.started = time.monotonic()
        with self.log.path.open("ab") as log:
            self._child = self._spawn(log.fileno(), keep_open)

    def _spawn(self, log: int, keep_open: int) -> Running:
        return subprocess.Popen(  # noqa: S603  a line of our Procfile
            self.command.split(),
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(keep_open,),
            preexec_fn=self._detach,  # safe: two system calls
        )

    def _detach(self) -> None:
        os.setsid()  # Ctrl-C in the terminal reaches the launcher only, which stops in order
        _libc.prctl(_PR_SET_PDEATHSIG, self._stop)  # however the launcher ends, nothing that it started outlives it

    @property
    def pid(self) -> int:
        """Of the process as it was last started."""
        if self._child is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def end(self) -> str:
        """How it ended, for people."""
        code = self._child.poll() if self._child else None
        if code is None:
            return "is running"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

    def stop(self) -> None:
        if self.running:
            os.kill(self.pid, self._stop)

    def kill(self) -> None:
        """It and what it left behind: the workers of a master that was killed hold on to its port."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()


class Replica(Process):
    """A replica, forked from the launcher, which has imported torch and so spares each of them the time and the memory.
    Started three times on two cores, torch alone takes longer than all the rest of the stack."""

    def _spawn(self, log: int, keep_open: int) -> Running:
        def run() -> None:
            self._detach()
            _libc.prctl(_PR_SET_NAME, self.name.encode())
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.clear()
            os.environ.update(self.env)
            self._main()

        return Forked(run)

    def _main(self) -> None:
        replica.main()


class Worker(Replica):
    """A worker of jobs, forked for the same reason."""

    def _main(self) -> None:
        worker.main()
