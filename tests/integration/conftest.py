"""The app of one worker, in this process, with real stores and the shipped models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from api import lifespan
from api.app import build_app, load_programs
from api.hangs import HangWatch
from api.lifespan import Programs
from api.models.repository import Repository
from api.protocol import PredictionProtocol
from api.settings import Settings
from tests.conftest import Database
from tests.servers import Redis

CLIENT_SECONDS = 20  # above a deadline, as the README wants it; httpx's own is 5
ADMIN = {"Authorization": "Bearer admin-token-of-the-tests"}


@pytest.fixture(autouse=True)
def _no_hang_ends_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker ends when its model hangs; here that is the process of the tests, which hold models on purpose."""
    monkeypatch.setattr(lifespan, "HangWatch", partial(HangWatch, end=lambda: None))


@pytest.fixture
def settings(postgres: Database, redis: Redis, tmp_path: Path) -> Settings:
    (tmp_path / "admin_token").write_text(ADMIN["Authorization"].removeprefix("Bearer "))
    return Settings(
        postgres_dsn=postgres.dsn,
        redis_url=redis.url,
        redis_budget_seconds=1,
        spool_dir=tmp_path / "spool",
        admin_token_file=tmp_path / "admin_token",
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
    """A client of a worker, without gunicorn and nginx before it."""
    async with (
        lifespan.open_replica(settings, repository, programs) as state,
        listening(build_app(settings, repository, programs), dict(state)) as url,
        httpx.AsyncClient(base_url=url, timeout=CLIENT_SECONDS) as client,
    ):
        yield client


@asynccontextmanager
async def served_over_asgi(
    settings: Settings, repository: Repository, programs: Programs
) -> AsyncIterator[httpx.AsyncClient]:
    """The same without our protocol: as another ASGI server would have it."""
    app = build_app(settings, repository, programs)
    async with lifespan.open_replica(settings, repository, programs) as state:

        async def app_with_state(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"] = dict(state)
            await app(scope, receive, send)

        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app_with_state), base_url="http://shoal", timeout=CLIENT_SECONDS
        ) as client:
            yield client


@asynccontextmanager
async def listening(app: ASGIApp, state: dict[str, Any], connections: ServerState | None = None) -> AsyncIterator[str]:
    """The protocol of a worker on a port of its own. Gives its URL."""
    config = uvicorn.Config(app, http=PredictionProtocol, ws="none", lifespan="off", log_config=None)
    config.load()
    connections = connections or ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: PredictionProtocol(config, connections, state), "127.0.0.1", 0
    )
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture(params=[served, served_over_asgi])
async def client(
    request: pytest.FixtureRequest, settings: Settings, shipped_models: tuple[Repository, Programs]
) -> AsyncIterator[httpx.AsyncClient]:
    async with request.param(settings, *shipped_models) as client:
        yield client
