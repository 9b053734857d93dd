"""The servers that tests and `make run` start: their data outlives them, and they come back from a crash."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.conftest import Database
from tests.servers import Postgres, Redis, eventually


def test_rows_outlive_a_crash_of_postgres(postgres_server: Callable[[], Postgres]) -> None:
    server = postgres_server()
    server.execute("CREATE TABLE kept AS SELECT 1 AS n", "predictions")

    server.kill()
    server.start()

    with psycopg.connect(server.dsn) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]


def test_postgres_stops_in_order_with_clients_connected(postgres_server: Callable[[], Postgres]) -> None:
    server = postgres_server()
    client = psycopg.connect(server.dsn)

    assert server.stop() == 0

    with pytest.raises(psycopg.OperationalError):
        client.execute("SELECT 1")
    client.close()


def test_answers_outlive_a_restart_of_redis(redis_server: Callable[[], Redis]) -> None:
    server = redis_server()
    with server.client() as client:
        client.set("answer", "kept")

    assert server.stop() == 0
    server.start()

    with server.client() as client:
        assert client.get("answer") == b"kept"


def test_a_paused_server_answers_nothing_until_it_is_resumed(postgres_server: Callable[[], Postgres]) -> None:
    server = postgres_server()

    server.pause()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn, connect_timeout=2)
    server.resume()

    with eventually(lambda: psycopg.connect(server.dsn, connect_timeout=2)):
        pass


def tables(database: Database) -> list[str]:
    with psycopg.connect(database.dsn) as connection:
        query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        return [name for (name,) in connection.execute(query).fetchall()]


def test_each_test_has_a_database_and_a_redis_to_itself(
    postgres: Database, empty_postgres: Database, redis: Redis
) -> None:
    assert "predictions" in tables(postgres)
    assert tables(empty_postgres) == []
    with redis.client() as client:
        assert client.dbsize() == 0
