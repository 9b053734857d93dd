"""The list of bad days, in the order in which they come."""

from __future__ import annotations

from loadtest.chaos import overload, replicas, stores
from loadtest.chaos.scenario import Scenario
from loadtest.chaos.stage import bad_day

_OVERLOAD = "goodput stays at {} of the peak, the rest get 429 with a Retry-After within {:g} s, memory stays flat"

_NOTHING = "0 failed, 0 lost, 0 duplicated"
# Redis has to be asked: a worker's own memory would hide from it what has gone wrong there.
_NO_MEMORY = {"SHOAL_LOG_LEVEL": "WARNING", "SHOAL_CACHE_LOCAL_ROWS": "0"}
_QUIET = {"SHOAL_LOG_LEVEL": "WARNING"}
_NEVER_WRONG = "0 failed, and never a wrong answer"

SCENARIOS = [
    # --- replicas and nginx
    Scenario(
        "workers-killed",
        "SIGKILL of every worker, one after the other",
        _NOTHING,
        bad_day(replicas.workers_killed, env=_QUIET),
    ),
    Scenario(
        "replica-killed",
        "SIGKILL of whole replicas, three times in a row",
        _NOTHING,
        bad_day(replicas.replica_killed, env=_QUIET),
    ),
    Scenario(
        "replica-frozen",
        "SIGSTOP of a replica for 10 s: alive but silent",
        _NOTHING,
        bad_day(replicas.replica_frozen, env=_QUIET, worst_seconds=12),
    ),
    Scenario("rolled", "rolling restart of all replicas", _NOTHING, bad_day(replicas.rolled, env=_QUIET)),
    Scenario(
        "nginx-reloaded",
        "nginx reads its configuration again, with fewer replicas and with more",
        _NOTHING,
        bad_day(replicas.nginx_reloaded, env=_QUIET),
    ),
    # --- Postgres
    Scenario(
        "postgres-stopped",
        "Postgres stopped for 60 s",
        _NOTHING,
        bad_day(stores.postgres_stopped, env=_QUIET, judge=stores.spool_was_seen),
    ),
    Scenario("postgres-killed", "SIGKILL of Postgres, twice", _NOTHING, bad_day(stores.postgres_killed, env=_QUIET)),
    Scenario(
        "postgres-shut-down-at-once",
        "immediate shutdown during commits, again and again",
        _NOTHING,
        bad_day(stores.postgres_shut_down_at_once, env=_QUIET),
    ),
    Scenario(
        "postgres-connections-cut",
        "pg_terminate_backend of all connections every 200 ms",
        _NOTHING,
        bad_day(stores.connections_cut, env=_QUIET),
    ),
    Scenario(
        "postgres-connections-exhausted",
        "max_connections taken by others",
        _NOTHING,
        bad_day(stores.connections_exhausted, env=_QUIET),
    ),
    Scenario(
        "postgres-table-locked",
        "an exclusive lock held on the table for 15 s",
        _NOTHING,
        bad_day(stores.table_locked, env=_QUIET),
    ),
    Scenario("postgres-frozen", "SIGSTOP of Postgres for 5 s", _NOTHING, bad_day(stores.postgres_frozen, env=_QUIET)),
    Scenario(
        "both-away",
        "Postgres and Redis away at once, back in either order",
        _NOTHING,
        bad_day(stores.both_away, env=_QUIET),
    ),
    # --- Redis
    Scenario("redis-stopped", "Redis stopped", _NEVER_WRONG, bad_day(stores.redis_stopped, env=_NO_MEMORY)),
    Scenario("redis-killed", "SIGKILL of Redis, twice", _NEVER_WRONG, bad_day(stores.redis_killed, env=_NO_MEMORY)),
    Scenario("redis-frozen", "SIGSTOP of Redis", _NEVER_WRONG, bad_day(stores.redis_frozen, env=_NO_MEMORY)),
    Scenario("redis-full", "maxmemory reached, noeviction", _NEVER_WRONG, bad_day(stores.redis_full, env=_NO_MEMORY)),
    Scenario("redis-read-only", "Redis refuses writes", _NEVER_WRONG, bad_day(stores.redis_read_only, env=_NO_MEMORY)),
    Scenario(
        "redis-values-of-another-type",
        "lists where values belong",
        _NEVER_WRONG,
        bad_day(stores.values_of_another_type, env=_NO_MEMORY),
    ),
    Scenario(
        "redis-values-corrupted",
        "bits flipped, values cut short and swapped",
        _NEVER_WRONG,
        bad_day(stores.values_corrupted, env=_NO_MEMORY),
    ),
    # --- more replicas
    Scenario("scaled", "3 -> 5 -> 2 -> 5 replicas", _NOTHING, bad_day(replicas.scaled, replicas=5, env=_QUIET)),
    # --- too much
    Scenario(
        "overload-dear",
        "three times as many requests as a dear model answers at most, for a minute",
        _OVERLOAD.format(overload.DEAR_GOODPUT, overload.REFUSAL_SECONDS),
        overload.dear,
    ),
    Scenario(
        "overload-cheap",
        "the same with a model that costs less than the HTTP around it",
        _OVERLOAD.format(overload.CHEAP_GOODPUT, overload.CHEAP_REFUSAL_SECONDS),
        overload.cheap,
    ),
]


def chosen(only: str, *, quick: bool) -> list[Scenario]:
    """Those whose names begin with one of these, separated by commas; all by default, of the quick ones if quick.

    Raises:
        ValueError: a name that no scenario begins with.
    """
    wanted = [name for name in only.split(",") if name]
    for name in wanted:
        if not any(each.name.startswith(name) for each in SCENARIOS):
            raise ValueError(f"expected some of {', '.join(each.name for each in SCENARIOS)}, got {name!r}")
    if wanted:
        return [each for each in SCENARIOS if each.name.startswith(tuple(wanted))]
    return [each for each in SCENARIOS if each.in_quick or not quick]
