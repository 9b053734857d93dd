"""What `make run` starts and in which order, and what must be true before it does."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from api.local.processes import Log, Process, Replica, Worker

ROOT = Path(__file__).resolve().parent.parent.parent


class CannotRun(Exception):
    """The stack cannot start, or not go on; the message is one line for the terminal."""


@dataclass(frozen=True, slots=True)
class Options:
    """What can be chosen; each an environment variable of the same name, and so `make run PORT=9000 N=2`."""

    port: int  # of nginx; the replicas have those after it
    replicas: int
    prometheus_port: int
    var: Path  # all state
    prometheus: bool  # whether it is there to be started

    @property
    def sockets(self) -> Path:
        """Directory of the Unix sockets of Postgres and Redis: a socket's path holds 107 characters."""
        beside = self.var / "run"
        if len(str(beside)) <= 90:
            return beside
        return Path(tempfile.gettempdir()) / f"shoal-{hashlib.sha256(str(self.var).encode()).hexdigest()[:12]}"

    def replica_port(self, number: int) -> int:
        return self.port + number

    @property
    def worker_port(self) -> int:
        """Where the worker of jobs says how it is doing."""
        return self.port + self.replicas + 1

    @property
    def ports(self) -> dict[str, list[int]]:
        """The ports to be free, by the variable that moves them."""
        replicas = (self.replica_port(number) for number in range(1, self.replicas + 1))
        ports = {"PORT": [self.port, *replicas, self.worker_port]}
        if self.prometheus:
            ports["PROMETHEUS_PORT"] = [self.prometheus_port]
        return ports


class Lock:
    """Held while anything of a stack runs: every process inherits it. So two stacks never share their state, and a new
    one waits for what is left of one whose launcher was killed."""

    def __init__(self, var: Path) -> None:
        var.mkdir(parents=True, exist_ok=True)
        self._file = (var / "lock").open("a+")

    @property
    def fd(self) -> int:
        return self._file.fileno()

    def take(self, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self._file.seek(0)
                launcher = self._file.read().strip()
                if launcher and _is_launcher(int(launcher)):
                    raise CannotRun(
                        f"another `make run` (process {launcher}) uses {Path(self._file.name).parent}; "
                        "stop it, or give this one a folder and ports of its own with VAR= and PORT="
                    ) from None
                if time.monotonic() > deadline:
                    raise CannotRun("what is left of an earlier run does not stop; see `ps`") from None
                time.sleep(0.1)
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()


def _is_launcher(pid: int) -> bool:
    try:
        return "api.local" in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def check_ports(options: Options) -> None:
    for variable, ports in options.ports.items():
        for port in ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections are no hindrance
                try:
                    probe.bind(("127.0.0.1", port))
                except PermissionError:
                    raise CannotRun(f"port {port} is for root only; choose one above 1023 with {variable}=") from None
                except OSError:
                    raise CannotRun(
                        f"port {port} is in use by {_user_of(port)}; choose another with {variable}="
                    ) from None


def _user_of(port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "a program of another user"


def processes(options: Options) -> list[Process]:
    """The lines of the Procfile, in its order, `api` once for each replica."""
    replicas = range(1, options.replicas + 1)
    addresses = [f"127.0.0.1:{options.replica_port(number)}" for number in replicas]
    common = os.environ | {"VAR": str(options.var), "SOCKETS": str(options.sockets), "VENV": sys.prefix}
    nginx = {"NGINX_LISTEN": f"127.0.0.1:{options.port}", "NGINX_UPSTREAMS": ",".join(addresses)}
    made = []
    for line in (ROOT / "Procfile").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, command = (part.strip() for part in line.split(":", 1))
        match name:
            case "api":
                for number, address in zip(replicas, addresses, strict=True):
                    env = {"REPLICA": str(number), "SHOAL_BIND": address}
                    made.append(_process(f"api.{number}", command, common | env, options, signal.SIGTERM, kind=Replica))
            case "worker":
                env = {"SHOAL_BIND": f"127.0.0.1:{options.worker_port}"}
                made.append(_process(name, command, common | env, options, signal.SIGTERM, kind=Worker))
            case "nginx":
                # Its order to finish what it has; SIGTERM would cut requests off.
                made.append(_process(name, command, common | nginx, options, signal.SIGQUIT))
            case "postgres":
                # SIGTERM would wait until every client has left.
                made.append(_process(name, command, common, options, signal.SIGINT))
            case "prometheus" if not options.prometheus:
                continue
            case _:
                env = {
                    "REPLICAS": ",".join(addresses),
                    "JOB_WORKERS": f"127.0.0.1:{options.worker_port}",
                    "PROMETHEUS_PORT": str(options.prometheus_port),
                }
                made.append(_process(name, command, common | env, options, signal.SIGTERM))
    return made


def _process(
    name: str,
    command: str,
    env: dict[str, str],
    options: Options,
    stop: signal.Signals,
    kind: type[Process] = Process,
) -> Process:
    log = Log(options.var / "log" / f"{name}.log", program=name.split(".")[0])
    # 30 s: compose's stop_grace_period of a replica, above all its own waits.
    return kind(name, command, env, log, stop=stop, stop_seconds=30)
