"""Asks a real Prometheus every query of every panel, and fails on those that find nothing.

    python -m grafana.check_panels http://127.0.0.1:9090
    python -m grafana.check_panels http://127.0.0.1:9090 --without nginx redis postgres     # make run: no exporters

Run it while the stack is under load and has been for a minute: a rate needs two scrapes, and a quantile of no requests
is NaN, which counts as nothing. From a test: `assert not failures("http://…", without={"nginx"})`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

DASHBOARDS = Path(__file__).parent / "dashboards"

# What Grafana puts in before it asks. The window is its own for a 5 s scrape interval and a short time range.
VARIABLES = {"$__rate_interval": "20s", "$__interval": "5s", "$__range": "1m", "$model": ".*", "$version": ".*"}

# Exporters are jobs of prometheus.yaml. Who runs without one says so; an exporter that broke must not look the same.
EXPORTED = {"nginx": "nginx_", "redis": "redis_", "postgres": "pg_"}

_LABELS_AND_WINDOWS = re.compile(
    r"""
    "[^"]*" | \{[^}]*\} | \[[^\]]*\]  # strings, matchers, windows
    | \b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"(?<![\w:.])[A-Za-z_:][\w:]*(?![\w:])(?!\s*\()")  # followed by a parenthesis, it is a function
_KEYWORDS = {"and", "or", "unless", "bool", "offset"}


class Target(NamedTuple):
    """A query of a panel, ready for Prometheus."""

    panel: str
    expr: str


class Failure(NamedTuple):
    target: Target
    reason: str

    def __str__(self) -> str:
        return f"{self.target.panel}: {self.reason}\n    {self.target.expr}"


def targets(dashboards: Path = DASHBOARDS) -> Iterator[Target]:
    """Every query of every panel and variable of every dashboard, Grafana's variables put in."""
    for path in sorted(dashboards.glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield Target(f"{path.stem}: {panel['title']}", with_variables(target["expr"]))
        for variable in dashboard["templating"]["list"]:
            selector = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
            if selector is None:
                raise ValueError(f"a variable whose query this check does not know: {variable['query']['query']}")
            yield Target(f"{path.stem}: variable {variable['name']}", with_variables(selector[1]))


def with_variables(expr: str) -> str:
    """Raises ValueError for a variable that VARIABLES does not know."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    if "$" in expr:
        raise ValueError(f"a variable without a value in {expr}")
    return expr


def metric_names(expr: str) -> set[str]:
    """The metrics and recorded series that an expression reads."""
    return set(_NAME.findall(_LABELS_AND_WINDOWS.sub("", expr))) - _KEYWORDS


def failures(
    prometheus: str, *, without: Collection[str] = (), dashboards: Path = DASHBOARDS, timeout_seconds: float = 10
) -> list[Failure]:
    """The queries that are refused or find nothing now.

    Args:
        prometheus: its URL.
        without: exporter jobs that this stack does not have by design; queries of their metrics are not asked.
    Raises:
        OSError: Prometheus cannot be reached.
    """
    absent = tuple(EXPORTED[job] for job in without)
    found = []
    for target in targets(dashboards):
        if absent and any(name.startswith(absent) for name in metric_names(target.expr)):
            continue
        if reason := _trouble(prometheus, target.expr, timeout_seconds):
            found.append(Failure(target, reason))
    return found


def _trouble(prometheus: str, expr: str, timeout_seconds: float) -> str:
    """Why the expression is no good, or "" if it is."""
    # POST, as Grafana does. The scheme is the caller's own to choose.
    request = Request(f"{prometheus.rstrip('/')}/api/v1/query", urlencode({"query": expr}).encode())  # noqa: S310
    try:
        with urlopen(request, timeout=timeout_seconds) as response:  # noqa: S310
            answer = json.load(response)
    except HTTPError as error:
        return f"refused: {error.read().decode(errors='replace')}"
    samples: list[dict[str, Any]] = answer["data"]["result"]
    if not samples:
        return "no data"
    if all(math.isnan(float(sample["value"][1])) for sample in samples):
        return "only NaN"
    return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m grafana.check_panels", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("prometheus", help="URL of Prometheus")
    parser.add_argument("--without", nargs="+", default=[], choices=EXPORTED, help="exporters this stack does not have")
    options = parser.parse_args(arguments)
    try:
        found = failures(options.prometheus, without=options.without)
    except URLError as error:
        print(f"{options.prometheus} does not answer: {error.reason}", file=sys.stderr)
        return 2
    for failure in found:
        print(failure, file=sys.stderr)
    asked = sum(1 for _ in targets())
    print(f"{asked} queries, {len(found)} without data" + "".join(f", no {job} exporter" for job in options.without))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
