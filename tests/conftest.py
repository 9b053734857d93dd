"""Real servers as fixtures. One Postgres and one Redis serve all tests of a (pytest-xdist) worker; each test gets an
empty Redis and its own, migrated database. A test that breaks a server takes one of its own from a factory."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings

from api.prediction_log import migrations
from tests.servers import Postgres, Redis

# Properties are searched from the same seed in every run, so that a change fails for what it broke and not for luck.
# `make test ARGS="--hypothesis-profile default"` searches at random, and --hypothesis-seed repeats what it found.
settings.load_profile("ci")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True, slots=True)
class Database:
    """A database of its own on the shared Postgres."""

    dsn: str


@pytest.fixture(scope="session")
def folders() -> Iterator[Callable[[], Path]]:
    """Makes folders for servers. Not pytest's own: the path of a Unix socket holds 107 characters."""
    root = Path(tempfile.mkdtemp(prefix="shoal-"))
    numbers = itertools.count()
    yield lambda: root / str(next(numbers))
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def shared_postgres(folders: Callable[[], Path]) -> Iterator[Postgres]:
    server = Postgres(folders())
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def shared_redis(folders: Callable[[], Path]) -> Iterator[Redis]:
    server = Redis(folders())
    server.start()
    yield server
    server.close()


_databases = itertools.count()


@pytest.fixture(scope="session")
def migrated_template(shared_postgres: Postgres) -> str:
    """Name of a database with every migration applied and partitions made, to be cloned."""
    name = "migrated"

    async def migrate() -> None:
        async with await psycopg.AsyncConnection.connect(shared_postgres.dsn_of(name), autocommit=True) as connection:
            await migrations.migrate(connection)
            await migrations.keep_partitions(connection, retention_days=90)

    shared_postgres.execute(f"CREATE DATABASE {name}")
    asyncio.run(migrate())
    return name


@pytest.fixture
def postgres(shared_postgres: Postgres, migrated_template: str) -> Iterator[Database]:
    """A database of the test's own, with every migration applied."""
    name = f"test_{next(_databases)}"
    shared_postgres.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield Database(shared_postgres.dsn_of(name))
    shared_postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_postgres(shared_postgres: Postgres) -> Iterator[Database]:
    """A new database that no migration has touched."""
    name = f"test_{next(_databases)}"
    shared_postgres.execute(f"CREATE DATABASE {name}")
    yield Database(shared_postgres.dsn_of(name))
    shared_postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis(shared_redis: Redis) -> Redis:
    """The shared Redis, emptied. Do not stop this one: see `redis_server`."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def postgres_server(folders: Callable[[], Path]) -> Iterator[Callable[[], Postgres]]:
    """Starts a Postgres of the test's own, to be stopped, killed or paused; `.dsn` is an empty database."""
    with ExitStack() as stack:

        def start() -> Postgres:
            server = Postgres(folders())
            stack.callback(server.close)
            server.start()
            return server

        yield start


@pytest.fixture
def redis_server(folders: Callable[[], Path]) -> Iterator[Callable[[], Redis]]:
    """Starts a Redis of the test's own, to be stopped, killed or paused."""
    with ExitStack() as stack:

        def start() -> Redis:
            server = Redis(folders())
            stack.callback(server.close)
            server.start()
            return server

        yield start
