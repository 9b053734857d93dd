"""A long day: a steady load at 70 % of what can be done, workers replaced all the time, and nothing that grows."""

from __future__ import annotations

import datetime
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg

from api.settings import Settings
from loadtest.bench import usage
from loadtest.chaos.ground import Ground, wait_until_whole
from loadtest.chaos.load import Load
from loadtest.chaos.oracle import Oracle
from loadtest.chaos.overload import OVERLOADED, find_peak
from loadtest.chaos.questions import Questions
from loadtest.chaos.reconcile import Reckoning, logged, reconcile, spooled
from loadtest.chaos.scenario import Effort, Outcome, must_not_fail, outcome
from tests.stack import Stack

SHARE = 0.7  # of the peak
# Half an hour has moments in which the disk or the cores are somebody else's. Requests that come by the thousand a
# second fill nginx in a third of one, and are then refused, with a Retry-After, instead of let wait.
MOST_REFUSED = 0.005
_LEG_SECONDS = 60  # of one load; each is reckoned up by itself, so that no more than that has to be remembered
_REPEAT_EVERY = 4
# Between legs, whose rows are told apart by their time: that is to the millisecond, and of a clock that nginx looks at
# now and then, so the first row of a leg might seem to be older than the leg.
_PAUSE_SECONDS = 0.5

# What each series may grow by from its second quarter to its last: a share of it, and what is noise anyhow.
FLAT: Mapping[str, tuple[float, float]] = {
    "memory of the replicas, MB": (0.05, 48),  # a worker's LRU fills anew each time it is replaced
    "file descriptors of the replicas": (0.1, 600),  # most are connections of nginx, which keeps as many as it needed
    "files of the metrics": (0, 0),
    "Redis keys without TTL": (0, 0),
    "connections to Postgres": (0, 12),
}


def soak(ground: Ground, effort: Effort) -> Outcome:
    every = 400 if effort.quick else 20_000
    env = {"SHOAL_LOG_LEVEL": "WARNING", "SHOAL_WORKERS": "2", "SHOAL_MAX_REQUESTS": f"{every}"}
    stack = ground.stack(2, env)
    # With workers that are replaced now and then, on cores that the load has its share of, too.
    peak = find_peak(stack, "/predict", 1000, set(), effort)
    effort.say(f"at most {peak:.0f} answers a second; {SHARE:.0%} of it for {effort.soak_seconds:.0f} s")
    oracle = Oracle(Settings().model_repository)
    series: dict[str, list[tuple[float, float]]] = {name: [] for name in (*FLAT, "answers/s", "slowest answer, s")}
    workers: set[int] = set()
    whole: Outcome | None = None
    begun = time.monotonic()
    leg = 0
    while (left := begun + effort.soak_seconds - time.monotonic()) > 0:
        leg += 1
        questions = Questions(f"soak-{begun:.0f}-{leg}", 100 + leg, repeat_every=_REPEAT_EVERY)
        since = datetime.datetime.now(datetime.UTC)
        time.sleep(_PAUSE_SECONDS)
        with Load(stack.nginx.port, questions, SHARE * peak) as load:
            end = time.monotonic() + min(left, _LEG_SECONDS)
            while time.monotonic() < end:
                workers |= {child.pid for replica in stack.replicas for child in psutil.Process(replica.pid).children()}
                for name, value in sample(stack).items():
                    series[name].append((time.monotonic() - begun, value))
                time.sleep(1)
        rows, waiting = logged(stack.postgres.dsn, since), spooled(stack.folder / "spool")
        made = outcome(load.ledger, reconcile(load.ledger, questions, rows, waiting, oracle.check), 0.0)
        series["answers/s"].append((time.monotonic() - begun, load.ledger.answered / (end - load.began)))
        series["slowest answer, s"].append((time.monotonic() - begun, made.worst_seconds))
        whole = made if whole is None else _both(whole, made)
    wait_until_whole(stack)
    assert whole is not None  # noqa: S101  it takes more than 0 seconds
    whole.series = series
    must_not_fail(whole, but=frozenset({OVERLOADED}))
    refused = whole.reckoning.statuses[OVERLOADED]
    whole.must(refused <= MOST_REFUSED * whole.reckoning.requests, f"{refused} were refused")
    replaced = len(workers) - len(stack.replicas) * 2
    whole.figures = {"offered": f"{SHARE * peak:.0f}/s", "workers replaced": f"at least {replaced}"}
    whole.must(replaced > 0, "no worker was replaced, so nothing was proved")
    judge(whole)
    return whole


def sample(stack: Stack) -> dict[str, float]:
    """Where things are that must not grow; the names of FLAT."""
    pids = [pid for replica in stack.replicas for pid in usage.tree(replica.pid)]
    with stack.redis.client() as client:
        keys: dict[str, Any] = client.info("keyspace").get("db0", {"keys": 0, "expires": 0})
    with psycopg.connect(stack.postgres.dsn_of("postgres")) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'shoal%'"
        [(connections,)] = connection.execute(query).fetchall()
    return {
        "memory of the replicas, MB": sum(usage.pss_bytes(replica.pid) for replica in stack.replicas) / 1e6,
        "file descriptors of the replicas": float(sum(map(_descriptors, pids))),
        "files of the metrics": float(sum(len(list(r.folder.glob("metrics/*/*.db"))) for r in stack.replicas)),
        "Redis keys without TTL": float(keys["keys"] - keys["expires"]),
        "connections to Postgres": float(connections),
    }


def judge(made: Outcome) -> None:
    """Holds the series against FLAT. Medians of quarters: a single look may fall into a bad moment."""
    for name, (share, slack) in FLAT.items():
        values = [value for _, value in made.series[name]]
        quarter = max(1, len(values) // 4)
        before, after = statistics.median(values[quarter : 2 * quarter] or values), statistics.median(values[-quarter:])
        made.figures[name] = f"{before:.0f}, at the end {after:.0f}"
        made.must(after <= before * (1 + share) + slack, f"{name} grew from {before:.0f} to {after:.0f}")


def _both(one: Outcome, other: Outcome) -> Outcome:
    """Two legs as one."""
    total = Reckoning(statuses=one.reckoning.statuses + other.reckoning.statuses)
    for name in ("requests", "answered", "lost", "duplicated", "altered", "unasked", "wrong", "still_spooled"):
        setattr(total, name, getattr(one.reckoning, name) + getattr(other.reckoning, name))
    return Outcome(
        total,
        max(one.worst_seconds, other.worst_seconds),
        0.0,
        broken=one.broken + other.broken,
        examples=(one.examples + other.examples)[:8],
    )


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(Path("/proc", str(pid), "fd")))
    except OSError:  # it has just ended
        return 0
