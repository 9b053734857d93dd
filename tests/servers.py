"""Real servers for tests, started by the scripts that `make run` uses, each in a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aio_pika
import psutil  # type: ignore[import-untyped]
import psycopg
import redis

ROOT = Path(__file__).parent.parent
T = TypeVar("T")
_PR_SET_PDEATHSIG = 1


def eventually(probe: Callable[[], T], *, within_seconds: float = 10, because: str = "") -> T:
    """Ask until the answer is true, and return it; an exception counts as not yet.

    Raises:
        AssertionError: it was not true in time; says what the last answer or exception was.
    """
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            last: object = None
            if answer := probe():
                return answer
            last = answer
        except Exception as error:  # noqa: BLE001 - what is not up yet fails in its own way
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_seconds} s: {because or probe}; at last {last!r}")
        time.sleep(0.01)


async def eventually_async(probe: Callable[[], Any], *, within_seconds: float = 10, because: str = "") -> Any:
    """`eventually` for a test on the event loop; `probe` may be async."""
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            last: object = None
            answer = probe()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return answer
            last = answer
        except Exception as error:  # noqa: BLE001 - see eventually
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_seconds} s: {because or probe}; at last {last!r}")
        await asyncio.sleep(0.01)


_promised: set[int] = set()
# Each of two workers of pytest-xdist has its own ten thousand.
_first_port = 21_000 if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw1" else 10_000


def free_ports(count: int = 1) -> list[int]:
    """Ports in a row that nobody listens on, below those that the kernel hands out by itself. None is given twice: who
    got it may not listen yet."""
    while True:
        ports = [first := random.randrange(_first_port, _first_port + 10_000), *range(first + 1, first + count)]
        if not _promised.isdisjoint(ports):
            continue
        with contextlib.ExitStack() as stack:
            try:
                for port in ports:
                    probe = stack.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _promised.update(ports)
        return ports


def status_of(port: int, path: str) -> int:
    """The status that GET is answered with on 127.0.0.1; -1 without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return -1
    finally:
        connection.close()


class Server:
    """One server process and its children: start, stop, kill, pause and resume them."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        *,
        ready: Callable[[], object],
        env: dict[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        start_seconds: float = 30,
        stop_seconds: float = 30,
    ) -> None:
        """ready: true once it answers; an exception counts as not yet. folder: its state, and `server.log`."""
        self.command = command
        self.folder = folder
        self.log = folder / "server.log"
        self._ready = ready
        self._env = {**os.environ, "VENV": sys.prefix, "VAR": str(folder), **(env or {})}
        self._stop_signal = stop_signal
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.command[0]} is not running"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def launch(self) -> None:
        """Start without waiting until it answers."""
        assert self._process is None, f"{self.command[0]} is running already"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # However this test run ends, nothing it started outlives it.
                preexec_fn=lambda: ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, self._stop_signal),
            )

    def start(self) -> None:
        self.launch()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        def ready() -> object:
            if self.process.poll() is not None:
                return True
            return self._ready()

        try:
            eventually(ready, within_seconds=self._start_seconds, because=f"{self.command[0]} answers")
        except AssertionError:
            self.kill()
            raise
        if self.process.poll() is not None:
            self._process = None
            raise AssertionError(f"{self.command[0]} ended:\n{self.log.read_text(errors='replace')[-4000:]}")

    def stop(self) -> int:
        """Stop in order, and return the exit status. Killed if it takes longer than it may."""
        process = self.process
        process.send_signal(self._stop_signal)
        try:
            status = process.wait(self._stop_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.command[0]} did not stop within {self._stop_seconds} s") from None
        self._process = None
        return status

    def wait(self, seconds: float) -> int:
        """The exit status of one that ends by itself, within that time."""
        status = self.process.wait(seconds)
        self._process = None
        return status

    def kill(self) -> None:
        """SIGKILL to it and all its children at once, as when the power goes."""
        self._signal_all(signal.SIGKILL)
        self.wait(10)

    def pause(self) -> None:
        """Freeze it and all its children: connections stay open, nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        """End it if it runs, in whatever state it is."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.stop()

    def _signal_all(self, number: signal.Signals) -> None:
        # By descent and not by process group: each backend of Postgres is a group of its own.
        parent = psutil.Process(self.pid)
        for process in [parent, *parent.children(recursive=True)]:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue


class Postgres(Server):
    """A Postgres of its own. Empty but for the database `predictions`, which no migration has touched."""

    def __init__(self, folder: Path) -> None:
        self.dsn = f"host={folder}/run user=postgres dbname=predictions"
        super().__init__([str(ROOT / "db" / "start")], folder, ready=self._answers, stop_signal=signal.SIGINT)

    def _answers(self) -> bool:
        with psycopg.connect(self.dsn, connect_timeout=2):
            return True

    def dsn_of(self, database: str) -> str:
        return f"host={self.folder}/run user=postgres dbname={database}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.dsn_of(database), autocommit=True) as connection:
            connection.execute(statement)


class Redis(Server):
    """A Redis of its own, empty at first."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder}/run/redis.sock"
        super().__init__([str(ROOT / "db" / "start-redis")], folder, ready=self._answers)

    def _answers(self) -> bool:
        with self.client() as client:
            return bool(client.ping())

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5)


class RabbitMq(Server):
    """A RabbitMQ of its own, empty at first."""

    def __init__(self, folder: Path) -> None:
        self.port, *_ = free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        super().__init__(
            [str(ROOT / "tests" / "start-rabbitmq")],
            folder,
            ready=self._answers,
            env={"RABBITMQ_PORT": str(self.port)},
            start_seconds=60,
        )

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=2):
            pass  # aio_pika says aloud what it cannot connect to

        async def connect() -> None:
            async with await aio_pika.connect(self.url, timeout=2):
                pass

        asyncio.run(connect())
        return True


class Nats(Server):
    """A NATS of its own with JetStream, empty at first."""

    def __init__(self, folder: Path, *options: str) -> None:
        """options: of nats-server's command line."""
        [self.port] = free_ports()
        self.url = f"nats://127.0.0.1:{self.port}"
        command = [str(ROOT / "tests" / "start-nats"), *options]
        super().__init__(command, folder, ready=self._answers, env={"NATS_PORT": str(self.port)})

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            return connection.recv(4) == b"INFO"  # JetStream is there before


BrokerServer = Redis | RabbitMq | Nats
BROKERS: dict[str, type[RabbitMq | Nats]] = {"rabbitmq": RabbitMq, "nats": Nats}
"""Beside the Redis of the cache."""


class Nginx(Server):
    """nginx as compose and `make run` start it, on a port of its own."""

    def __init__(self, folder: Path, upstreams: list[str], **env: str) -> None:
        """upstreams: host:port of each replica. env: NGINX_ variables of nginx/start."""
        [self.port] = free_ports()
        env = {"NGINX_LISTEN": f"127.0.0.1:{self.port}", "NGINX_UPSTREAMS": ",".join(upstreams), **env}
        command = [str(ROOT / "nginx" / "start")]
        super().__init__(command, folder, ready=self._answers, env=env, stop_signal=signal.SIGQUIT)

    def reload(self, upstreams: list[str]) -> None:
        """Go on with these, as after an edit of the configuration: new processes take over, the old ones finish."""
        self._env["NGINX_UPSTREAMS"] = ",".join(upstreams)
        subprocess.run([*self.command, "-t"], env=self._env, cwd=ROOT, check=True, capture_output=True)
        self.process.send_signal(signal.SIGHUP)

    def _answers(self) -> bool:
        return status_of(self.port, "/metrics") == 404  # which it says by itself


class Replica(Server):
    """A replica as `make run` starts it, on a port of its own."""

    def __init__(self, folder: Path, *, postgres_dsn: str, redis_url: str, spool: Path, **env: str) -> None:
        """env: further SHOAL_ variables."""
        [self.port] = free_ports()
        self.address = f"127.0.0.1:{self.port}"
        env = {
            "SHOAL_BIND": self.address,
            "SHOAL_POSTGRES_DSN": postgres_dsn,
            "SHOAL_REDIS_URL": redis_url,
            "SHOAL_SPOOL_DIR": str(spool),
            "SHOAL_WORKERS": "1",
            **env,
        }
        super().__init__([str(ROOT / "api" / "start")], folder, ready=self._answers, env=env, start_seconds=60)

    def _answers(self) -> bool:
        return status_of(self.port, "/health/ready") == 200


class JobWorker(Server):
    """A worker of jobs as `make run` starts it, on a port of its own."""

    def __init__(
        self, folder: Path, *, postgres_dsn: str, redis_url: str, broker_url: str | None = None, spool: Path, **env: str
    ) -> None:
        """env: further SHOAL_ variables."""
        [self.port] = free_ports()
        env = {
            "SHOAL_BIND": f"127.0.0.1:{self.port}",
            "SHOAL_POSTGRES_DSN": postgres_dsn,
            "SHOAL_REDIS_URL": redis_url,
            "SHOAL_SPOOL_DIR": str(spool),
            "SHOAL_JOB_NICE": "0",  # whatever else runs beside the tests
            **({"SHOAL_BROKER_URL": broker_url} if broker_url else {}),
            **env,
        }
        super().__init__([str(ROOT / "api" / "start-worker")], folder, ready=self._answers, env=env, start_seconds=60)

    def _answers(self) -> bool:
        return status_of(self.port, "/health/ready") == 200
