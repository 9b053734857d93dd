"""What happens to Postgres and to Redis."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import redis

from loadtest.chaos.ground import metric
from loadtest.chaos.scenario import Outcome
from loadtest.chaos.stage import Stage
from tests.servers import Server, eventually


# --- Postgres ---------------------------------------------------------------------------------------------------------
def postgres_stopped(stage: Stage) -> None:
    stage.stack.postgres.stop()
    stage.wait(60, 4)
    stage.made["most rows in the spool, by its metric"] = f"{max(metric(stage.stack, 'shoal_spool_rows')):.0f}"
    stage.over()
    stage.stack.postgres.start()


def spool_was_seen(stage: Stage, outcome: Outcome) -> None:
    seen = int(stage.made["most rows in the spool, by its metric"])
    outcome.must(seen > 0, "the spool's depth was not in the metrics")


def postgres_killed(stage: Stage) -> None:
    for _ in range(2):
        stage.stack.postgres.kill()
        stage.go_on()
        stage.over()
        stage.stack.postgres.start()
        stage.go_on()


def postgres_shut_down_at_once(stage: Stage) -> None:
    """In the midst of commits, of which nobody then knows whether they were done."""
    for _ in range(3 if stage.effort.quick else 8):
        stage.stack.postgres.process.send_signal(signal.SIGQUIT)
        stage.stack.postgres.wait(30)
        stage.over()
        stage.stack.postgres.start()
        stage.go_on(0.08)


def connections_cut(stage: Stage) -> None:
    """Every connection of every replica, every 200 ms."""
    end = time.monotonic() + (4 if stage.effort.quick else 20)
    with _superuser(stage) as connection:
        cut = 0
        while time.monotonic() < end:
            cursor = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'shoal%'"
            )
            row = cursor.fetchone()
            cut += row[0] if row else 0
            time.sleep(0.2)
    stage.made["connections cut"] = f"{cut}"
    stage.over()


def connections_exhausted(stage: Stage) -> None:
    """Others hold all that there may be, and those of the replicas are cut."""
    with ExitStack() as others, _superuser(stage) as connection:
        connection.execute("ALTER ROLE postgres CONNECTION LIMIT -1")
        _cut_all(connection)
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                others.enter_context(psycopg.connect(stage.stack.postgres.dsn, connect_timeout=2))
                _cut_all(connection)
        stage.wait(15, 4)
        stage.over()


def table_locked(stage: Stage) -> None:
    with psycopg.connect(stage.stack.postgres.dsn) as connection:
        connection.execute("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
        stage.wait(15, 5)
        stage.over()


def postgres_frozen(stage: Stage) -> None:
    stage.stack.postgres.pause()
    stage.wait(5, 5)
    stage.over()
    stage.stack.postgres.resume()
    stage.go_on()


@contextmanager
def _superuser(stage: Stage) -> Iterator[psycopg.Connection[tuple[int]]]:
    with psycopg.connect(
        stage.stack.postgres.dsn_of("postgres"), autocommit=True, application_name="chaos"
    ) as connection:
        yield connection


def _cut_all(connection: psycopg.Connection[tuple[int]]) -> None:
    connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'shoal%'")


# --- Redis ------------------------------------------------------------------------------------------------------------
def redis_stopped(stage: Stage) -> None:
    stage.stack.redis.stop()
    stage.wait(15, 3)
    stage.over()
    stage.stack.redis.start()


def redis_killed(stage: Stage) -> None:
    for _ in range(2):
        stage.stack.redis.kill()
        stage.go_on()
        stage.over()
        stage.stack.redis.start()
        stage.go_on()


def redis_frozen(stage: Stage) -> None:
    stage.stack.redis.pause()
    stage.wait(10, 3)
    stage.over()
    stage.stack.redis.resume()
    stage.go_on()


def redis_full(stage: Stage) -> None:
    with stage.stack.redis.client() as client:
        before = client.config_get("maxmemory*")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1mb")
        stage.go_on(0.3)
        stage.over()
        client.config_set("maxmemory", before["maxmemory"])
        client.config_set("maxmemory-policy", before["maxmemory-policy"])


def redis_read_only(stage: Stage) -> None:
    """It has become the replica of one that is not there."""
    with stage.stack.redis.client() as client:
        client.replicaof("127.0.0.1", "1")
        stage.go_on(0.3)
        stage.over()
        client.replicaof("NO", "ONE")


def values_of_another_type(stage: Stage) -> None:
    def change(client: redis.Redis, key: bytes) -> None:
        with client.pipeline() as at_once:  # else a replica puts its value between the two
            at_once.delete(key)
            at_once.lpush(key, b"a list")
            at_once.execute()

    _spoil(stage, change)


def values_corrupted(stage: Stage) -> None:
    """A byte of each value is another, or it is cut short, or it is another row's."""
    chance = random.Random(0)
    values: list[bytes] = []

    def corrupt(client: redis.Redis, key: bytes) -> None:
        value = client.get(key)
        if not isinstance(value, bytes) or not value:
            return
        values.append(value)
        at = chance.randrange(len(value))
        spoilt = chance.choice(
            [
                value[:at] + bytes([value[at] ^ 1 << chance.randrange(8)]) + value[at + 1 :],
                value[:at],
                chance.choice(values),
                os.urandom(len(value)),
            ]
        )
        client.set(key, spoilt)

    _spoil(stage, corrupt)


def _spoil(stage: Stage, change: Callable[[redis.Redis, bytes], None]) -> None:
    """Changes every key there is, again and again, while rows that are in them are asked for."""
    changed = 0
    with stage.stack.redis.client() as client:
        goal = len(stage.load.ledger) + stage.effort.requests * 0.4
        while len(stage.load.ledger) < goal:
            for key in list(client.scan_iter(count=1000)):
                change(client, key)
                changed += 1
            time.sleep(0.05)
        stage.over()
        client.flushall()
    stage.made["values spoilt"] = f"{changed}"


# --- both -------------------------------------------------------------------------------------------------------------
def both_away(stage: Stage) -> None:
    """And they come back in either order."""
    postgres, redis = stage.stack.postgres, stage.stack.redis
    orders: tuple[tuple[Server, Server], ...] = ((postgres, redis), (redis, postgres))
    for first, second in orders:
        postgres.stop()
        redis.kill()
        stage.go_on()
        first.start()
        stage.go_on(0.05)
        stage.over()
        second.start()
        eventually(lambda: metric(stage.stack, "shoal_log_postgres_up") == [1, 1, 1], within_seconds=30)
