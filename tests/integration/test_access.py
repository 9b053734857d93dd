"""Every route there is, with and without a key. They are enumerated, so that a new one cannot be forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute, Mount

from api.access.keys import add_key, revoke_keys
from api.app import build_app
from api.lifespan import Programs
from api.models.repository import Repository
from api.settings import Settings
from tests.integration.conftest import ADMIN, served, served_over_asgi
from tests.integration.test_http import ROW, assert_problem
from tests.servers import eventually_async as eventually

OPEN = {"/health/live", "/health/ready", "/metrics"}
ADMINS = {"/admin/cache/flush"}
FILLED_IN = {"name": "penguins", "version": "2", "id": "01890a5d-ac96-774b-bcce-b302099a8057"}


def paths(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Method and pattern of every route; a kind of route that is not known here has neither, and ends this."""
    for route in routes:
        inner: Any = getattr(route, "original_router", None)
        if inner is not None:
            yield from paths(inner.routes)
        elif isinstance(route, Mount):
            yield "GET", f"{route.path}/swagger-ui.css"
        else:
            known: Any = route
            yield from ((method, known.path) for method in known.methods)


ROUTES = sorted(paths(build_app(Settings(), Repository({}, []), {}).routes))


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def key(keys_file: Path) -> str:
    return add_key(keys_file, "alice")


@pytest.fixture(params=[served, served_over_asgi])
async def client(
    request: pytest.FixtureRequest,
    settings: Settings,
    shipped_models: tuple[Repository, Programs],
    keys_file: Path,
    key: str,
) -> AsyncIterator[httpx.AsyncClient]:
    """Of a worker that asks for keys, and knows alice's."""
    settings = settings.model_copy(update={"keys_file": keys_file})
    async with request.param(settings, *shipped_models) as client:
        yield client


async def ask(client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    """With a body that most routes would take, so that it is not the body which is refused."""
    body = None if method in ("GET", "HEAD") else {"features": ROW}
    return await client.request(method, path.format(**FILLED_IN), json=body, headers=headers)


def test_all_routes_were_found() -> None:
    described = build_app(Settings(), Repository({}, []), {}).openapi()["paths"]
    assert {(method.upper(), path) for path, of in described.items() for method in of} <= set(ROUTES)
    assert {path for _, path in ROUTES} >= OPEN | ADMINS | {"/openapi.json", "/docs", "/redoc"}
    assert {path for _, path in ROUTES if path.startswith("/admin") or "rout" in path or "rollback" in path} == ADMINS


async def test_every_route_is_closed_without_a_key_that_is_known(client: httpx.AsyncClient, key: str) -> None:
    for method, path in ROUTES:
        for headers in ({}, {"X-API-Key": key[:-1]}, {"Authorization": "Bearer"}, {"Authorization": f"Basic {key}"}):
            reply = await ask(client, method, path, headers)
            if path in OPEN:
                assert reply.status_code == 200, f"{method} {path}"
            else:
                assert reply.status_code == 401, f"{method} {path} {headers}"
                assert reply.headers["www-authenticate"] == 'Bearer realm="shoal"'
                if method != "HEAD":
                    wanted = "admin token" if path in ADMINS else "an API key"
                    assert_problem(reply, 401, "key-required", f"expected {'the ' * (path in ADMINS)}{wanted}")
                assert key[:-1] not in reply.text


async def test_every_route_but_those_of_admins_opens_to_a_known_key(client: httpx.AsyncClient, key: str) -> None:
    for method, path in ROUTES:
        for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
            reply = await ask(client, method, path, headers)
            if path in ADMINS:
                assert_problem(reply, 403, "admin-only", "got an API key")
                assert reply.headers["www-authenticate"] == 'Bearer realm="shoal", error="insufficient_scope"'
            else:
                assert reply.status_code not in (401, 403), f"{method} {path}"
    assert (await client.post("/predict", json={"features": ROW}, headers={"X-API-Key": key})).status_code == 200


async def test_what_is_not_there_is_not_told_from_what_is_closed(client: httpx.AsyncClient, key: str) -> None:
    for path in ("/nowhere", "/models/whales/predict", "/predict/", "//predict", "/predict?x=1", "/health/live/"):
        assert_problem(await client.post(path, json={"features": ROW}), 401, "key-required", "got none")
    assert (await client.post("/nowhere", headers={"X-API-Key": key})).status_code == 404


async def test_the_admin_token_opens_what_is_for_admins_and_nothing_else(client: httpx.AsyncClient) -> None:
    flushed = await client.post("/admin/cache/flush", json={"model": "penguins"}, headers=ADMIN)

    assert flushed.status_code == 200
    assert_problem(await client.get("/models", headers=ADMIN), 401, "key-required", "not known")


async def test_a_key_counts_soon_after_its_adding_and_no_more_after_its_revoking(
    client: httpx.AsyncClient, keys_file: Path
) -> None:
    async def status_is(status: int) -> bool:
        reply = await client.post("/predict", json={"features": ROW}, headers={"X-API-Key": bob})
        return reply.status_code == status

    bob = add_key(keys_file, "bob")
    await eventually(lambda: status_is(200), within_seconds=5)
    revoke_keys(keys_file, "bob")
    await eventually(lambda: status_is(401), within_seconds=5)


async def test_requests_are_counted_by_the_name_of_their_key(client: httpx.AsyncClient, key: str) -> None:
    def counted(text: str) -> dict[str, float]:
        lines = [line for line in text.splitlines() if line.startswith("shoal_key_requests_total")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    before = counted((await client.get("/metrics")).text)
    for path, headers in (("/predict", {"X-API-Key": key}), ("/predict", {"X-API-Key": "wrong"}), ("/nowhere", {})):
        await client.post(path, json={"features": ROW}, headers=headers)
    await client.post("/admin/cache/flush", json={"model": "penguins"}, headers=ADMIN)

    metrics = (await client.get("/metrics")).text
    more = {name: value - before.get(name, 0) for name, value in counted(metrics).items()}
    assert {name: value for name, value in more.items() if value} == {
        'shoal_key_requests_total{key="alice",status="200"}': 1,
        'shoal_key_requests_total{key="admin",status="200"}': 1,
    }
    assert key not in metrics


# --- where nobody is asked for a key ----------------------------------------------------------------------------------
@pytest.mark.parametrize("transport", [served, served_over_asgi])
async def test_admin_routes_are_closed_always(
    transport: Any, settings: Settings, shipped_models: tuple[Repository, Programs]
) -> None:
    async with transport(settings, *shipped_models) as client:
        for method, path in ROUTES:
            reply = await ask(client, method, path, {})
            assert (reply.status_code == 401) == (path in ADMINS), f"{method} {path}"
        assert_problem(await client.get("/admin/anything"), 401, "key-required", "expected the admin token")
        assert (await client.get("/admin/anything", headers=ADMIN)).status_code == 404


def test_the_description_says_which_routes_need_what(keys_file: Path) -> None:
    for asks in (False, True):
        settings = Settings(keys_file=keys_file if asks else None)
        description = build_app(settings, Repository({}, []), {}).openapi()
        for path, operations in description["paths"].items():
            for operation in operations.values():
                expected: list[dict[str, list[str]]] = []
                if path in ADMINS:
                    expected = [{"adminToken": []}]
                elif asks and path not in OPEN:
                    expected = [{"key": []}, {"keyHeader": []}]
                assert operation.get("security", []) == expected, path
                assert ("401" in operation["responses"]) == bool(expected)
                assert ("403" in operation["responses"]) == (path in ADMINS)
        assert set(description["components"]["securitySchemes"]) == {"key", "keyHeader", "adminToken"}
