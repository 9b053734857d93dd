"""A replica's HTTP in this process, and workers of jobs in it or beside it, over each broker."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aio_pika
import httpx
import nats
import nats.js.errors
import numpy as np
import numpy.typing as npt
import psycopg
import pytest

from api.job_worker.worker import work
from api.lifespan import Programs
from api.models.repository import Repository
from api.settings import Settings
from tests.conftest import Database
from tests.integration.conftest import served
from tests.servers import BrokerServer, Nats, RabbitMq, Redis, eventually_async, free_ports

Models = tuple[Repository, Programs]

QUEUES = ("low", "normal", "high", "dead")


@pytest.fixture(scope="session")
def shared_rabbitmq(folders: Callable[[], Path]) -> Iterator[RabbitMq]:
    server = RabbitMq(folders())
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def shared_nats(folders: Callable[[], Path]) -> Iterator[Nats]:
    server = Nats(folders())
    server.start()
    yield server
    server.close()


@pytest.fixture
async def rabbitmq(shared_rabbitmq: RabbitMq) -> RabbitMq:
    """The shared RabbitMQ, emptied."""
    await remove_queues(shared_rabbitmq)
    return shared_rabbitmq


@pytest.fixture
async def nats_server(shared_nats: Nats) -> Nats:
    """The shared NATS, emptied."""
    await remove_queues(shared_nats)
    return shared_nats


@pytest.fixture(params=["redis", "rabbitmq", "nats_server"])
def broker(request: pytest.FixtureRequest) -> BrokerServer:
    """Each test that asks for it runs over all of them. Not to be stopped."""
    server: BrokerServer = request.getfixturevalue(request.param)
    return server


async def remove_queues(server: BrokerServer) -> None:
    """With all that is in them, whoever uses them."""
    if isinstance(server, Redis):
        with server.client() as client:
            client.delete(*(f"shoal:jobs:{name}" for name in QUEUES))
    elif isinstance(server, RabbitMq):
        async with await aio_pika.connect(server.url) as connection:
            channel = await connection.channel()
            for name in QUEUES:
                await channel.queue_delete(f"shoal.jobs.{name}")
    else:
        async with await nats.connect(server.url) as connected:
            with contextlib.suppress(nats.js.errors.NotFoundError):
                await connected.jetstream().delete_stream("shoal-jobs")


@pytest.fixture
def settings(postgres: Database, redis: Redis, tmp_path: Path) -> Settings:
    """Over Redis. Quick to notice what is lost; chunks of a few rows."""
    return Settings(
        postgres_dsn=postgres.dsn,
        redis_url=redis.url,
        redis_budget_seconds=1,
        spool_dir=tmp_path / "spool",
        workers=1,
        job_chunk_rows=100,
        job_lease_seconds=2,
        job_redeliver_seconds=1,
        job_retry_seconds=0.05,
        job_nice=0,
    )


@pytest.fixture
async def client(settings: Settings, shipped_models: tuple[Repository, Programs]) -> AsyncIterator[httpx.AsyncClient]:
    async with served(settings, *shipped_models) as client:
        yield client


@asynccontextmanager
async def working(settings: Settings, repository: Repository, programs: Programs) -> AsyncIterator[int]:
    """A worker in this process, stopped in order at the end. Gives the port of its health and metrics."""
    [port] = free_ports()
    stop = asyncio.Event()
    mine = settings.model_copy(update={"bind": f"127.0.0.1:{port}"})
    running = asyncio.create_task(work(mine, repository, programs, stop))
    try:
        yield port
    finally:
        stop.set()
        await asyncio.wait_for(running, 30)


@contextmanager
def run_before(models: Models, run: Callable[[npt.NDArray[np.float32]], None]) -> Iterator[None]:
    """The default model has this before each batch, float32 (rows, 3); for workers opened inside, whose warm-up is the
    first."""
    program: Any = models[1]["penguins", "2"]
    real = program.stage

    def stage(batch: list[bytes]) -> Any:
        run(np.frombuffer(b"".join(batch), dtype=np.float32).reshape(len(batch), 3))
        return real(batch)

    program.stage = stage
    try:
        yield
    finally:
        del program.stage


def rows(count: int, first: int = 0) -> list[list[float]]:
    """Rows of penguins, each a different one."""
    return [[round(32 + index * 0.0001, 4), 17.5, 200.0] for index in range(first, first + count)]


def is_of_a_job(batch: npt.NDArray[np.float32]) -> bool:
    """Of `rows`, that is, and not of a model that is warmed up."""
    return bool((batch[:, 0] < 36).all())


async def submit(client: httpx.AsyncClient, some: list[list[float]], **parameters: str) -> str:
    """A job of these rows. Gives its id."""
    answer = await client.post("/jobs", params=parameters, json={"instances": some})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def job(client: httpx.AsyncClient, id: str) -> dict[str, Any]:
    answer = await client.get(f"/jobs/{id}")
    assert answer.status_code == 200, answer.text
    state: dict[str, Any] = answer.json()
    return state


async def ended(client: httpx.AsyncClient, id: str, within_seconds: float = 30) -> dict[str, Any]:
    """The job, once it has."""

    async def end() -> dict[str, Any] | None:
        now = await job(client, id)
        return now if now["finished_at"] else None

    state: dict[str, Any] = await eventually_async(end, within_seconds=within_seconds, because=f"job {id} has ended")
    return state


async def results(client: httpx.AsyncClient, id: str, **parameters: Any) -> list[dict[str, Any]]:
    answer = await client.get(f"/jobs/{id}/results", params=parameters)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def logged(dsn: str) -> dict[str, list[float]]:
    """What is in the log: input by id, which Postgres keeps unique."""
    with psycopg.connect(dsn) as connection:
        return {str(id): row for id, row in connection.execute("SELECT id, input_data FROM predictions")}


async def assert_answered_once(client: httpx.AsyncClient, dsn: str, jobs: dict[str, list[list[float]]]) -> None:
    """Every row of every job has its answer, and the log has that once and nothing else."""
    expected: dict[str, list[float]] = {}
    for id, some in jobs.items():
        answers = await results(client, id)
        assert [answer["row"] for answer in answers] == list(range(len(some)))
        expected |= {answer["id"]: row for answer, row in zip(answers, some, strict=True)}
    assert logged(dsn) == expected
