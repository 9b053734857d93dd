"""The app of one worker, in this process, with real stores and the shipped models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from api import lifespan
from api.app import build_app, load_programs
from api.lifespan import Programs
from api.models.repository import Repository
from api.settings import Settings
from tests.conftest import Database
from tests.servers import Redis


@pytest.fixture
def settings(postgres: Database, redis: Redis, tmp_path: Path) -> Settings:
    return Settings(
        postgres_dsn=postgres.dsn,
        redis_url=redis.url,
        redis_budget_seconds=1,
        spool_dir=tmp_path / "spool",
        max_rows_per_request=8,
        max_body_bytes=4096,
        workers=1,
    )


@pytest.fixture(scope="session")
def shipped_models() -> tuple[Repository, Programs]:
    repository = Repository.open(Settings().model_repository)
    return repository, load_programs(repository, "cpu")


@asynccontextmanager
async def served(settings: Settings, repository: Repository, programs: Programs) -> AsyncIterator[httpx.AsyncClient]:
    """A client that speaks to the app as nginx would, past the network."""
    app = build_app(settings, repository, programs)
    async with lifespan.open_replica(settings, repository, programs) as state:

        async def app_with_state(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"] = dict(state)
            await app(scope, receive, send)

        transport = httpx.ASGITransport(app_with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://shoal") as client:
            yield client


@pytest.fixture
async def client(settings: Settings, shipped_models: tuple[Repository, Programs]) -> AsyncIterator[httpx.AsyncClient]:
    async with served(settings, *shipped_models) as client:
        yield client
