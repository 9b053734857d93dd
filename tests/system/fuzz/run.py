"""schemathesis over the whole API: what it may be told, what must be as before when it is done.

The description says what a request may be and what an answer must be; schemathesis makes requests of both kinds, right
and wrong, one by one and in sequences that follow the links, and holds the answers to it. All its checks are on but
one. One round goes to a replica, which is the whole API, the next through nginx, which is what the world sees of it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from api.access.keys import add_key
from tests.servers import eventually
from tests.stack import Stack

HERE = Path(__file__).parent
KEPT_CONNECTIONS = 130  # idle ones of nginx, which keeps as many as it needed at once, and some
ROUND_EXAMPLES = 150  # for each operation; beyond, a round finds less than a new seed does
_GENERATED = re.compile(r"^\s*([\d,]+) generated", re.MULTILINE)
_FOR_THOSE_INSIDE = "^/(admin|metrics)"


@dataclass(frozen=True)
class Round:
    """One run of schemathesis."""

    through: str
    seed: int
    cases: int
    passed: bool
    output: str


@dataclass(frozen=True)
class Usage:
    """What a replica holds on to, in all its workers."""

    workers: frozenset[int]
    descriptors: int


class Fuzzed:
    """A stack that asks for keys, and schemathesis with one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = add_key(folder / "keys", "fuzz")
        self.stack = Stack(folder, replicas=1, SHOAL_KEYS_FILE=str(folder / "keys"), SHOAL_WORKERS="2")
        self._replica = self.stack.replicas[0]

    def start(self) -> None:
        self.stack.start()
        self._environment = {
            **os.environ,
            "SCHEMATHESIS_HOOKS": str(HERE / "serializers.py"),
            "FUZZ_KEY": self._key,
            "FUZZ_ADMIN_TOKEN": (self._replica.folder / "admin_token").read_text().strip(),
        }
        self._description = self._folder / "openapi.json"
        self._description.write_text(json.dumps(self._get("/openapi.json")))

    def rounds(self, cases: int, seed: int) -> Iterator[Round]:
        """Until so many cases were generated, or a round failed."""
        generated = 0
        while generated < cases:
            through = ("replica", "nginx")[seed % 2]
            operations = len(json.loads(self._description.read_text())["paths"])
            made = self._round(through, seed, min(ROUND_EXAMPLES, 1 + (cases - generated) // (3 * operations)))
            yield made
            generated += made.cases
            seed += 1
            if not made.passed:
                return

    def _round(self, through: str, seed: int, examples: int) -> Round:
        port = self.stack.nginx.port if through == "nginx" else self._replica.port
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(HERE / "schemathesis.toml"),
            "run", str(self._description), "--url", f"http://127.0.0.1:{port}", "--checks", "all",
            # The only DELETE there is cancels a job, which stays to be looked at, with the answers that it has.
            "--exclude-checks", "use_after_free",
            "--continue-on-failure", "--no-color", "--seed", str(seed), "--max-examples", str(examples),
            "--suppress-health-check", "all", "--generation-database", "none", "--request-timeout", "20",
        ]  # fmt: skip
        if through == "nginx":
            command += ["--exclude-path-regex", _FOR_THOSE_INSIDE]
        ended = subprocess.run(
            command, cwd=self._folder, env=self._environment, capture_output=True, text=True, check=False
        )
        output = ended.stdout + ended.stderr
        cases = _GENERATED.search(output)
        return Round(
            through, seed, int(cases[1].replace(",", "")) if cases else 0, ended.returncode == 0 and bool(cases), output
        )

    def usage(self) -> Usage:
        workers = psutil.Process(self._replica.pid).children()
        return Usage(frozenset(each.pid for each in workers), sum(each.num_fds() for each in workers))

    def troubles(self, before: Usage) -> list[str]:
        """What is not as it should be after it all, a line each. before: from when nothing had been asked yet."""
        eventually(lambda: self._metric("shoal_requests_in_flight") <= 1, because="only this question is in flight")
        found = self._server_errors()
        if (status := self._predict()) != 200:
            found.append(f"the next prediction is answered {status}")
        after = self.usage()
        if after.workers != before.workers:
            found.append(f"workers were {sorted(before.workers)} and are {sorted(after.workers)}")
        if after.descriptors > before.descriptors + KEPT_CONNECTIONS:
            found.append(f"{before.descriptors} open files became {after.descriptors}")
        return found

    def _predict(self) -> int:
        """The status of a good prediction, through nginx."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.stack.nginx.port}/predict",
            b'{"features":[39.1,18.7,181]}',
            {"Content-Type": "application/json", "X-API-Key": self._key},
        )
        with urllib.request.urlopen(request, timeout=20) as reply:
            return int(reply.status)

    def _server_errors(self) -> list[str]:
        """Lines of the logs that tell of a 5xx or a traceback."""
        logs = [self._replica.log, self.stack.nginx.log]
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
        return [line for line in lines if re.search(r'"status":5\d\d|"exception":|Traceback', line)]

    def _metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._replica.port}/metrics", timeout=20) as reply:
            text = reply.read().decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def _get(self, path: str) -> object:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._replica.port}{path}", headers={"X-API-Key": self._key}
        )
        with urllib.request.urlopen(request, timeout=20) as reply:
            content: object = json.load(reply)
            return content
