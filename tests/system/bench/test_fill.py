"""Stores that were filled in bulk are like those that were filled by serving, against the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from api.cache.keys import KeySpace
from api.prediction_log.statements import COPY, copy_data
from loadtest.bench import fill
from loadtest.bench.subject import Stores
from tests import prediction_rows
from tests.conftest import Database
from tests.servers import Redis, eventually

ROWS = 2_000


def stores(*, postgres: str = "", redis: str = "") -> Stores:
    return Stores(postgres, Path(redis.removeprefix("unix://")))


def query(postgres: Database, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(postgres.dsn) as connection:
        return connection.execute(statement).fetchall()


def test_rows_are_spread_over_the_days_for_which_they_are_kept(postgres: Database) -> None:
    fill.predictions(stores(postgres=postgres.dsn), ROWS)

    days = query(postgres, "SELECT tableoid::regclass::text, count(*) FROM predictions GROUP BY 1 ORDER BY 1")
    assert len(days) == fill.DAYS
    assert all(str(name).startswith("predictions_2") for name, _ in days)  # none in the default partition
    assert {count for _, count in days[1:-2]} <= {22, 23, 24}


def test_or_they_are_all_of_today(postgres: Database) -> None:
    fill.predictions(stores(postgres=postgres.dsn), ROWS, today=True)

    [(today,)] = query(postgres, "SELECT count(*) FROM predictions WHERE timestamp >= date_trunc('day', now())")
    assert today == ROWS


def test_a_row_is_as_large_as_one_that_was_served(postgres: Database) -> None:
    """A larger one would leave gaps that those which are served fill first, each in another page."""
    fill.predictions(stores(postgres=postgres.dsn), ROWS, today=True)
    served = prediction_rows.row(
        request_id="0123456789abcdef" * 2, input_data=b"[34.10,13.1,181.0]", prediction=b"0", label="Adelie"
    )
    with psycopg.connect(postgres.dsn, autocommit=True) as connection, connection.cursor().copy(COPY) as copy:
        copy.write(copy_data([served]))

    sizes = query(
        postgres,
        """
        SELECT avg(pg_column_size(row.*)) FROM predictions AS row
        WHERE label = 'Adelie' AND timestamp >= date_trunc('day', now()) GROUP BY confidence = 0.98
        """,
    )
    [[made], [ours]] = sizes
    assert made == pytest.approx(ours, abs=2)


def test_the_write_ahead_log_is_that_of_a_postgres_that_has_run_for_long(postgres: Database) -> None:
    fill.predictions(stores(postgres=postgres.dsn), ROWS)

    [(segments,)] = query(postgres, "SELECT count(*) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'")
    assert isinstance(segments, int)
    assert segments >= 16  # of 16 MB: min_wal_size


def test_ids_are_those_of_their_time(postgres: Database) -> None:
    fill.predictions(stores(postgres=postgres.dsn), ROWS)

    [(ids, version_7, of_their_time)] = query(
        postgres,
        """
        SELECT count(DISTINCT id), count(*) FILTER (WHERE substr(id::text, 15, 1) = '7'),
               count(*) FILTER (WHERE ('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint
                                      = round(extract(epoch FROM timestamp) * 1000))
        FROM predictions WHERE request_id <> ''
        """,
    )
    assert (ids, version_7, of_their_time) == (ROWS, ROWS, ROWS)


def test_answers_are_as_many_and_as_large_as_ours_and_run_out(redis_server: Callable[[], Redis]) -> None:
    redis = redis_server()

    fill.answers(stores(redis=redis.url), ROWS)

    with redis.client() as client:
        assert client.dbsize() == ROWS
        key = client.randomkey()
        assert key.startswith(b"shoal:penguins:2:")
        assert len(key) == len(KeySpace("penguins", "2", "0" * 64).key(b""))
        assert len(client.get(key)) == 1 + 4 + 3 * 4  # sealed.py: format, checksum, three probabilities
        assert 3000 < client.ttl(key) <= 3600
        assert client.config_get("maxmemory") == {"maxmemory": "0"}


def test_answers_that_redis_does_not_take_are_an_error(redis_server: Callable[[], Redis]) -> None:
    redis = redis_server()
    with redis.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)

    with pytest.raises(OSError, match=r"expected 2000 times OK from Redis, got .*OOM"):
        fill.answers(stores(redis=redis.url), ROWS, unlimited=False)


def test_redis_saves_when_it_is_told_to_and_not_by_itself(redis_server: Callable[[], Redis]) -> None:
    redis = redis_server()
    fill.answers(stores(redis=redis.url), ROWS)

    fill.save(stores(redis=redis.url))

    eventually((redis.folder / "redis" / "dump.rdb").exists)
    with redis.client() as client:
        assert client.config_get("save") == {"save": ""}
