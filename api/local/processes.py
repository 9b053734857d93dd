"""One process of the stack: started by its script, stopped with its signal, its log followed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

LOG_BYTES = 64 * 1024 * 1024
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

# What of a log is worth the terminal: warnings and worse, in the words of each server. Redis' are about the machine.
_NOTABLE = {
    "api": re.compile(rb'"level":"[wec]'),
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


class Process:
    def __init__(
        self, name: str, command: str, env: dict[str, str], log: Log, *, stop: signal.Signals, stop_seconds: float
    ) -> None:
        """stop: the signal that makes it finish what it has and end, within stop_seconds."""
        self.name = name
        self.command = command
        self.log = log
        self.stop_seconds = stop_seconds
        self._stop = stop
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self.started = 0.0

    def start(self, keep_open: int) -> None:
        """keep_open: a file descriptor that the process inherits; see stack.Lock."""
        self.started = time.monotonic()
        with self.log.path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  a line of our Procfile
                self.command.split(),
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(keep_open,),
                start_new_session=True,  # Ctrl-C in the terminal reaches the launcher only, which stops in order
                preexec_fn=self._die_with_parent,  # safe: one system call, no threads
            )

    def _die_with_parent(self) -> None:
        """However the launcher ends, nothing that it started outlives it."""
        _libc.prctl(_PR_SET_PDEATHSIG, self._stop)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def end(self) -> str:
        """How it ended, for people."""
        code = self._process.poll() if self._process else None
        if code is None:
            return "is running"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(self._stop)  # does nothing once it has ended

    def kill(self) -> None:
        """It and what it left behind: the workers of a master that was killed hold on to its port."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
