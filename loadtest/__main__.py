"""Load a running Shoal, and exit with the verdict: 0 objectives kept, 1 missed, 2 nothing was measured."""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NoReturn

from loadtest.payloads import MODELS, SEED
from loadtest.scenarios import SCENARIOS
from loadtest.verdict import NOTHING_MEASURED, OBJECTIVES, read_objectives

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
# `make run`, then compose.
HOSTS = ("http://127.0.0.1:8080", "http://127.0.0.1")
PROBE_SECONDS = 5


def main() -> NoReturn:
    options = parse()
    try:
        read_objectives(Path(options.objectives), options.scenario)
        host = find_host([options.host] if options.host else HOSTS)
    except ValueError as error:
        print(f"loadtest: {error}", file=sys.stderr)
        sys.exit(NOTHING_MEASURED)
    page = options.html or f"reports/{options.scenario}-{time.strftime('%Y%m%d-%H%M%S')}.html"
    print(f"{options.scenario} on {options.model}: {options.users} users for {options.duration} on {host}", flush=True)
    print(f"report: {page}", flush=True)
    command = locust_command(options, host, page)
    # Not imported but started in our place: it patches the sockets of its process, and gets signals itself.
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """An empty value stands for the default, as Make hands on what was not given."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="scenarios:\n" + "\n".join(f"  {name:<7} {each.summary}" for name, each in SCENARIOS.items()),
    )

    def add(name: str, default: str, text: str, choices: list[str] | None = None) -> None:
        # Choices are checked below, as "" would be none of them.
        shown = f"{text}: {', '.join(choices)}" if choices else text
        parser.add_argument(f"--{name}", default="", help=f"{shown} (default: {default})")
        defaults[name.replace("-", "_")] = default, choices

    defaults: dict[str, tuple[str, list[str] | None]] = {}
    add("scenario", "zipf", "what is sent", [*SCENARIOS])
    add("model", "penguins", "the model that is asked", [*MODELS])
    add("users", "50", "how many ask at the same time; of a ramp the most")
    add("duration", "30s", "how long, e.g. 90s or 5m")
    add("host", "", f"the server; by default the first of {', '.join(HOSTS)} that is ready")
    add("spawn-rate", "", "users started in a second; by default all within two seconds")
    add("processes", "1", "processes that make the load; more than one once one core is not enough")
    add("html", "", "the report; by default reports/SCENARIO-TIME.html")
    add("seed", str(SEED), "of the bodies and their order; another one meets a cache that is not warm")
    add("objectives", str(OBJECTIVES), "what must be kept")
    options = parser.parse_args(arguments)
    for name, (default, choices) in defaults.items():
        value = getattr(options, name) or default
        if choices and value not in choices:
            parser.error(f"--{name}: expected one of {', '.join(choices)}, got {value!r}")
        setattr(options, name, value)
    return options


def find_host(hosts: tuple[str, ...] | list[str]) -> str:
    """The first that can predict.

    Raises:
        ValueError: none; says of each what it answered.
    """
    reasons = []
    # Loopback never goes through a proxy, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for host in hosts:
        try:
            with opener.open(f"{host.rstrip('/')}/health/ready", timeout=PROBE_SECONDS):
                return host.rstrip("/")
        except urllib.error.HTTPError as error:
            reasons.append(f"{host} is not ready ({error.code})")
        except (OSError, ValueError) as error:
            reasons.append(f"{host}: {getattr(error, 'reason', error)}")
    raise ValueError(f"no server to load, start one with `make run` or `make up` ({'; '.join(reasons)})")


def locust_command(options: argparse.Namespace, host: str, page: str) -> list[str]:
    users = int(options.users)
    command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--host", host, "--html", page, "--users", str(users), "--run-time", options.duration]
    command += ["--spawn-rate", options.spawn_rate or str(max(1, users / 2))]
    command += ["--loglevel", "WARNING"]
    for name in ("scenario", "model", "seed", "objectives"):
        command += [f"--{name}", getattr(options, name)]
    if int(options.processes) > 1:
        command += ["--processes", options.processes]
    return command


if __name__ == "__main__":
    main()
