"""The list of bad days, in the order in which they come."""

from __future__ import annotations

from loadtest.chaos import (
    clocks,
    containers,
    disks,
    job_stages,
    jobs,
    misbehaving,
    network,
    overload,
    replicas,
    soak,
    stores,
)
from loadtest.chaos.containers import container_day
from loadtest.chaos.jobs import job_day
from loadtest.chaos.scenario import Scenario
from loadtest.chaos.stage import bad_day

_OVERLOAD = "goodput stays at {} of the peak, the rest get 429 with a Retry-After within {:g} s, memory stays flat"

_NOTHING = "0 failed, 0 lost, 0 duplicated"
# Redis has to be asked: a worker's own memory would hide from it what has gone wrong there.
_NO_MEMORY = {"SHOAL_LOG_LEVEL": "WARNING", "SHOAL_CACHE_LOCAL_ROWS": "0"}
_QUIET = {"SHOAL_LOG_LEVEL": "WARNING"}
_QUARANTINE = (
    "995 in 1000 others are answered, workers are replaced, the version is left alone for a while and shown as such"
)
_NO_ROOM = "what was answered is there, the rest got a 503 with a Retry-After and has no row"
_NO_REPLICA, _UNAVAILABLE = frozenset({502}), frozenset({503})
_EACH_ROW_ONCE = "every job is done, and every row of it answered and logged once"
_NEVER_WRONG = "0 failed, and never a wrong answer"

# Under four minutes in all, of which starting stacks is the greater part.
_QUICK = {
    "workers-killed",
    "nginx-reloaded",
    "jobs-delivered-twice",
    "postgres-stopped",
    "postgres-shut-down-at-once",
    "postgres-connections-cut",
    "postgres-table-locked",
    "both-away",
    "spool-full",
    "reset-mid-answer",
    "clients-that-leave",
    "redis-frozen",
    "redis-full",
    "redis-values-corrupted",
    "model-crashes",
    "overload-dear",
}

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
        "rerouted",
        "another version of the model becomes the default, and then the first one again",
        f"{_NOTHING}, and each answer is of the version it names",
        bad_day(replicas.rerouted, env=replicas.routable),
    ),
    Scenario(
        "nginx-reloaded",
        "nginx reads its configuration again, with fewer replicas and with more",
        _NOTHING,
        bad_day(replicas.nginx_reloaded, env=_QUIET),
    ),
    # --- jobs: on the stack of those before
    Scenario(
        "jobs-worker-killed",
        "SIGKILL of workers of jobs in the midst of chunks",
        _EACH_ROW_ONCE,
        job_day(jobs.worker_killed, jobs=100),
    ),
    Scenario(
        "jobs-worker-frozen",
        "SIGSTOP of a worker of jobs until others have answered what it has in hand",
        _EACH_ROW_ONCE,
        job_day(jobs.worker_frozen, jobs=50),
    ),
    Scenario(
        "jobs-broker-killed",
        "SIGKILL of RabbitMQ before jobs are taken, while they run, and as it comes back",
        _EACH_ROW_ONCE,
        job_day(jobs.broker_killed, jobs=100),
    ),
    Scenario(
        "jobs-broker-stages",
        "SIGKILL of RabbitMQ at each stage that a chunk goes through, from accepted to its dead letter",
        _EACH_ROW_ONCE,
        job_day(job_stages.broker_killed_at_each, jobs=50, is_tapped=True),
    ),
    Scenario(
        "jobs-redis-killed",
        "the same with Redis as their broker",
        _EACH_ROW_ONCE,
        job_day(jobs.broker_killed, jobs=100, broker="redis"),
    ),
    Scenario(
        "jobs-nats-killed",
        "the same with NATS as their broker",
        _EACH_ROW_ONCE,
        job_day(jobs.broker_killed, jobs=100, broker="nats"),
    ),
    Scenario(
        "jobs-postgres-away",
        "SIGKILL of Postgres while jobs run, and 10 s without it",
        _EACH_ROW_ONCE,
        job_day(jobs.postgres_away, jobs=100),
    ),
    Scenario(
        "jobs-delivered-twice",
        "messages of chunks in every state, published again and again",
        _EACH_ROW_ONCE,
        job_day(jobs.delivered_twice, jobs=100),
    ),
    Scenario(
        "jobs-many",
        "a thousand jobs while workers, RabbitMQ and Postgres are killed in turn and messages come again",
        _EACH_ROW_ONCE,
        job_day(jobs.all_of_it, jobs=1000),
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
    # --- disks
    Scenario(
        "spool-torn",
        "SIGKILL of all replicas while they spool, and the last write to the spool is torn",
        "what was answered is there",
        bad_day(disks.killed_while_spooling, env=_QUIET, but=_NO_REPLICA),
    ),
    Scenario(
        "spool-full",
        "Postgres away and the spool's disk full",
        _NO_ROOM,
        bad_day(disks.spool_full, env=_QUIET, but=_UNAVAILABLE, judge=disks.refusals_were_honest),
    ),
    Scenario(
        "spool-read-only",
        "Postgres away and the spool read-only",
        _NO_ROOM,
        bad_day(disks.spool_read_only, env=_QUIET, but=_UNAVAILABLE, judge=disks.refusals_were_honest),
    ),
    Scenario("postgres-full", "the disk of Postgres full", _NOTHING, bad_day(disks.postgres_full, env=_QUIET)),
    # --- the network
    Scenario(
        "reset-mid-answer",
        "one answer in ten cut off between replica and nginx",
        _NOTHING,
        bad_day(network.reset_mid_answer, env=_QUIET),
    ),
    Scenario(
        "slow-clients",
        "two thousand clients that send a byte a second",
        _NOTHING,
        bad_day(network.slow_clients, env=_QUIET),
    ),
    Scenario(
        "clients-that-leave",
        "thousands of clients hang up mid-request",
        _NOTHING,
        bad_day(network.clients_that_leave, env=_QUIET),
    ),
    Scenario(
        "half-open",
        "two thousand connections on which nothing more comes",
        _NOTHING,
        bad_day(network.half_open, env=_QUIET),
    ),
    Scenario(
        "idle-connections",
        "five thousand connections that are kept and not used",
        _NOTHING,
        bad_day(network.idle_connections, env=_QUIET),
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
    # --- clocks
    Scenario(
        "clock-back",
        "the clocks of the replicas jump back by a minute",
        _NOTHING,
        bad_day(clocks.back_one_minute, env=clocks.faked),
    ),
    Scenario(
        "new-month",
        "a month ends, and its next days have no partitions",
        _NOTHING,
        bad_day(clocks.new_month, env=clocks.faked),
    ),
    Scenario(
        "no-partition",
        "the partition of tomorrow is missing, and made when its rows are there",
        _NOTHING,
        bad_day(clocks.no_partition_for_tomorrow, env=clocks.faked),
    ),
    # --- models
    Scenario(
        "models-fail",
        "models that raise, give NaN or another shape, or want 20 GB",
        "their own requests fail clearly, no others",
        bad_day(misbehaving.models_fail, env=misbehaving.repository),
    ),
    Scenario(
        "model-crashes",
        "a model that reads beyond its memory, until it is left alone",
        _QUARANTINE,
        bad_day(misbehaving.model_crashes, env=misbehaving.repository, but=_NO_REPLICA, judge=misbehaving.said_so),
    ),
    Scenario(
        "model-hangs",
        "a model that never ends, on the event loop",
        _QUARANTINE,
        bad_day(misbehaving.model_hangs, env=misbehaving.repository, but=_NO_REPLICA, judge=misbehaving.said_so),
    ),
    Scenario(
        "model-hangs-in-its-thread",
        "the same in the thread for dear models",
        _QUARANTINE,
        bad_day(misbehaving.dear_model_hangs, env=misbehaving.repository, but=_NO_REPLICA, judge=misbehaving.said_so),
    ),
    # --- more replicas
    Scenario("scaled", "3 -> 5 -> 2 -> 5 replicas", _NOTHING, bad_day(replicas.scaled, replicas=5, env=_QUIET)),
    # --- a long day
    Scenario(
        "soak",
        "70 % of the peak for half an hour, workers replaced all the while",
        "0 failed, 5 in 1000 refused at most, and memory, files, connections and keys stay as many",
        soak.soak,
    ),
    # --- too much
    Scenario(
        "overload-dear",
        "three times as many requests as a dear model answers at most, for a minute",
        _OVERLOAD.format(overload.GOODPUT, overload.REFUSAL_SECONDS),
        overload.dear,
    ),
    Scenario(
        "overload-cheap",
        "the same with a model that costs less than the HTTP around it",
        _OVERLOAD.format(overload.GOODPUT, overload.CHEAP_REFUSAL_SECONDS),
        overload.cheap,
    ),
]


CONTAINERS = [
    Scenario("replicas-killed", "docker kill of every replica, one after the other", _NOTHING,
             container_day(containers.replicas_killed)),
    Scenario("replica-paused", "docker pause of a replica for 10 s", _NOTHING, container_day(containers.frozen)),
    Scenario("scaled", "3 -> 5 -> 2 -> 3 containers", _NOTHING, container_day(containers.scaled)),
    Scenario("rolled", "make roll", _NOTHING, container_day(containers.rolled)),
    Scenario("postgres-stopped", "docker compose stop postgres", _NOTHING, container_day(containers.postgres_stopped)),
    Scenario("postgres-killed", "docker kill of Postgres", _NOTHING, container_day(containers.postgres_killed)),
    Scenario("redis-killed", "docker kill of Redis", _NOTHING, container_day(containers.redis_killed)),
]  # fmt: skip


def chosen(only: str, *, quick: bool, stack: str = "") -> list[Scenario]:
    """Those whose names begin with one of these, separated by commas; all by default, of the quick ones if quick.

    stack: compose for those of containers; "" for those without.
    Raises:
        ValueError: a stack or a name that there is not.
    """
    if stack not in ("", "native", "compose"):
        raise ValueError(f"--stack: expected native or compose, got {stack!r}")
    among = CONTAINERS if stack == "compose" else SCENARIOS
    wanted = tuple(name for name in only.split(",") if name)
    for name in wanted:
        if not any(each.name.startswith(name) for each in among):
            raise ValueError(f"--only: expected some of {', '.join(each.name for each in among)}, got {name!r}")
    if wanted:
        return [each for each in among if each.name.startswith(wanted)]
    return [each for each in among if each.name in _QUICK or not quick or among is CONTAINERS]
