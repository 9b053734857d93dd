"""Every route, as a client sees it: status, body, headers, and the row in the log."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from uuid import UUID

import httpx
import numpy as np
import pytest
from starlette.types import Message, Receive, Scope, Send

from api import metrics, tallies
from api.in_flight import InFlight
from api.middleware import Envelope
from api.models.manifest import TOLERANCES
from api.routes.hot import HotRoutes
from tests.integration.conftest import ADMIN

ROW = [39.1, 18.7, 181.0]


def assert_problem(response: httpx.Response, status: int, slug: str, detail: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"urn:shoal:problem:{slug}"
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    assert detail in problem["detail"]


# --- predictions ----------------------------------------------------------------------------------------------------
async def test_a_prediction_is_answered_then_cached_and_in_the_log(client: httpx.AsyncClient) -> None:
    first = await client.post("/predict", json={"features": ROW}, headers={"x-request-id": "mine-1"})
    second = await client.post("/predict", json={"features": ROW})

    assert first.status_code == second.status_code == 200
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "local")
    assert first.headers["x-request-id"] == "mine-1"
    answer = first.json()
    assert (answer["prediction"], answer["label"], answer["model"], answer["cached"]) == (
        0,
        "Adelie",
        "penguins",
        False,
    )
    assert 0.5 < answer["confidence"] <= 1
    assert second.json() == {**answer, "id": second.json()["id"], "cached": True}
    assert second.json()["id"] != answer["id"]

    logged = (await client.get(f"/predictions/{answer['id']}")).json()
    assert logged["input_data"] == ROW
    assert logged["request_id"] == "mine-1"
    assert (logged["prediction"], logged["label"], logged["cache"]) == (0, "Adelie", "miss")
    assert logged["confidence"] == pytest.approx(answer["confidence"])


async def test_a_batch_is_answered_in_order_a_row_each(client: httpx.AsyncClient) -> None:
    await client.post("/predict", json={"features": ROW})

    batch = await client.post("/predict/batch", json={"instances": [[50.0, 15.0, 220.0], ROW]})

    assert batch.status_code == 200
    assert batch.headers["x-cache"] == "mixed"
    rows = batch.json()["predictions"]
    assert [(row["label"], row["cached"]) for row in rows] == [("Gentoo", False), ("Adelie", True)]
    for row in rows:
        assert (await client.get(f"/predictions/{row['id']}")).status_code == 200


async def test_a_batch_and_single_requests_agree(client: httpx.AsyncClient) -> None:
    rows = [[40.0 + n, 15.0 + n / 2, 180.0 + 5 * n] for n in range(8)]
    path = "/models/penguins/versions/1/predict"
    batch = (await client.post(f"{path}/batch", json={"instances": rows})).json()
    found = [(await client.post(path, json={"features": row})).json() for row in rows]
    await client.post("/admin/cache/flush", json={"model": "penguins"}, headers=ADMIN)
    computed = [(await client.post(path, json={"features": row})).json() for row in rows]

    for batched, kept, single in zip(batch["predictions"], found, computed, strict=True):
        assert (kept["cached"], single["cached"]) == (True, False)
        assert (kept["prediction"], kept["confidence"]) == (batched["prediction"], batched["confidence"])
        assert single["prediction"] == batched["prediction"]
        assert single["confidence"] == pytest.approx(batched["confidence"], abs=TOLERANCES["float32"])


async def test_every_model_answers_its_own_example(client: httpx.AsyncClient) -> None:
    models = (await client.get("/models")).json()
    assert models["refused"] == []
    assert {"penguins", "digits"} < {model["name"] for model in models["models"]}

    for model in models["models"]:
        for version in model["versions"]:
            path = f"/models/{model['name']}/versions/{version['version']}/predict"
            answer = await client.post(path, json={"features": model["example"]})
            assert answer.status_code == 200, answer.text
            assert answer.json()["version"] == version["version"]
            if model["task"] == "classification":
                assert answer.json()["label"] == model["classes"][answer.json()["prediction"]]
            else:
                assert answer.json()["confidence"] is None
                assert "label" not in answer.json()
        default = next(version for version in model["versions"] if version["default"])
        answer = await client.post(f"/models/{model['name']}/predict", json={"features": model["example"]})
        assert answer.json()["version"] == default["version"]


async def test_a_request_without_nginx_gets_an_id_and_one_that_is_no_id_is_replaced(client: httpx.AsyncClient) -> None:
    none = await client.post("/predict", json={"features": ROW})
    bad = await client.post("/predict", json={"features": ROW}, headers={"x-request-id": "a b\tc"})

    assert len(none.headers["x-request-id"]) == len(bad.headers["x-request-id"]) == 32


async def test_the_row_of_a_retried_request_has_the_id_and_time_of_the_first(client: httpx.AsyncClient) -> None:
    import time

    now = time.time()
    headers = {"x-shoal-time": f"{now:.3f}", "x-shoal-id": "0123456789abcdef" * 2}

    first = await client.post("/predict", json={"features": ROW}, headers=headers)
    retry = await client.post("/predict", json={"features": ROW}, headers=headers)

    assert first.json()["id"] == retry.json()["id"]
    assert UUID(first.json()["id"]).int >> 80 == int(f"{now:.3f}".replace(".", ""))
    page = (await client.get("/predictions")).json()
    assert len(page["predictions"]) == 1


# --- refusals -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "status", "slug", "detail"),
    [
        ('{"features":[1,2]}', 422, "invalid-rows", "expected 3 features per row, got 2 (features)"),
        ('{"features":[1,2,"x"]}', 422, "invalid-rows", "got a string (features[2])"),
        ('{"features":[1,2,1e39]}', 422, "invalid-rows", "features[2]"),
        ('{"features":[1,2,NaN]}', 400, "invalid-request", "NaN"),
        ('{"features":[1,2,3],"extra":1}', 400, "invalid-request", "unknown field extra"),
        ('{"features":[1,2,3],"features":[1,2,3]}', 400, "invalid-request", "once"),
        ("", 400, "invalid-request", "truncated"),
        ('{"features":[' + "1," * 3000 + "1]}", 413, "body-too-large", "at most 4096 bytes"),
    ],
)
async def test_a_bad_body_is_refused_with_what_was_wrong(
    client: httpx.AsyncClient, body: str, status: int, slug: str, detail: str
) -> None:
    response = await client.post("/predict", content=body, headers={"content-type": "application/json"})

    assert_problem(response, status, slug, detail)
    assert (await client.get("/predictions")).json()["predictions"] == []


async def test_a_body_that_comes_in_pieces_is_bounded_too(client: httpx.AsyncClient) -> None:
    async def pieces() -> object:
        for _ in range(100):
            yield b" " * 100

    response = await client.post("/predict", content=pieces(), headers={"content-type": "application/json"})  # type: ignore[arg-type]

    assert_problem(response, 413, "body-too-large", "longer than the limit")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", None])
async def test_a_body_that_is_not_declared_as_json_is_refused(
    client: httpx.AsyncClient, media_type: str | None
) -> None:
    headers = {"content-type": media_type} if media_type else {}
    response = await client.post("/predict", content=json.dumps({"features": ROW}), headers=headers)

    assert_problem(response, 415, "unsupported-media-type", f"got {media_type or 'no content-type'}")


async def test_a_charset_beside_the_media_type_is_fine(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    response = await client.post("/predict", content=json.dumps({"features": ROW}), headers=headers)

    assert response.status_code == 200


async def test_a_body_that_is_not_even_text_is_refused(client: httpx.AsyncClient) -> None:
    headers = ADMIN | {"content-type": "application/json"}
    for path in ("/predict", "/admin/cache/flush"):
        response = await client.post(path, content=b"\xff\xb4", headers=headers)
        assert_problem(response, 400, "invalid-request", "expected a JSON object")


async def test_too_many_rows_are_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/predict/batch", json={"instances": [ROW] * 9})

    assert_problem(response, 413, "too-many-rows", "at most 8 rows in one request, got 9")


@pytest.mark.parametrize(
    ("path", "slug", "detail"),
    [
        ("/models/whales/predict", "unknown-model", "penguins"),
        ("/models/penguins/versions/99/predict", "unknown-version", "2"),
        ("/models/penguins/versions/99/predict/batch", "unknown-version", "2"),
        ("/models/%00/predict", "unknown-model", "penguins"),
        ("/nowhere", "not-found", "/nowhere"),
        ("/predict/", "not-found", "/predict/"),
        ("/models/penguins/predict%0A", "not-found", "/models/penguins/predict"),
    ],
)
async def test_what_is_not_there_is_named_with_what_is(
    client: httpx.AsyncClient, path: str, slug: str, detail: str
) -> None:
    assert_problem(await client.post(path, json={"features": ROW}), 404, slug, detail)


async def test_a_path_may_be_spelled_with_percent_signs(client: httpx.AsyncClient) -> None:
    for path in ("/%70redict", "/models/%70enguins/predict", "/models/penguins/versions/%32/predict"):
        assert (await client.post(path, json={"features": ROW})).status_code == 200, path


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "POST"),
        ("PUT", "/jobs", "GET, POST"),  # of two routes
        ("PATCH", "/jobs/01890a5d-ac96-774b-bcce-b302099a8057", "DELETE, GET"),
    ],
)
async def test_another_method_is_refused_with_the_right_ones(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)

    assert_problem(response, 405, "method-not-allowed", f"expected {allowed}, got {method}")
    assert response.headers["allow"] == allowed


async def test_a_request_that_is_cut_off_as_the_replica_stops_gets_a_problem_and_is_counted() -> None:
    begun = asyncio.Event()
    sent: list[Message] = []

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    def counted() -> float:
        tallies.flush()
        return float(metrics.REQUESTS.labels("other", "503", "stopping")._value.get())

    gate = SimpleNamespace(check=lambda context: None)
    state = {"replica": SimpleNamespace(in_flight=InFlight(deadline_seconds=10, max_requests=10), gate=gate)}
    scope = {"type": "http", "method": "GET", "path": "/models", "headers": [], "state": state}
    before = counted()
    request = asyncio.ensure_future(Envelope(hang, HotRoutes([]))(scope, receive, send))
    await begun.wait()
    request.cancel()  # as uvicorn does when the drain is over
    await request

    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["type"] == "urn:shoal:problem:stopping"
    assert counted() == before + 1
    assert len(state["replica"].in_flight) == 0


# --- the log --------------------------------------------------------------------------------------------------------
async def test_the_log_is_read_in_pages_newest_first_and_filtered(client: httpx.AsyncClient) -> None:
    ids = [
        (await client.post(f"/models/penguins/versions/{1 + n % 2}/predict", json={"features": ROW})).json()["id"]
        for n in range(5)
    ]

    first = (await client.get("/predictions", params={"limit": 2})).json()
    second = (await client.get("/predictions", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    third = (await client.get("/predictions", params={"limit": 2, "cursor": second["next_cursor"]})).json()

    seen = [row["id"] for page in (first, second, third) for row in page["predictions"]]
    assert sorted(seen) == sorted(ids)
    times = [row["timestamp"] for page in (first, second, third) for row in page["predictions"]]
    assert times == sorted(times, reverse=True)
    assert third["next_cursor"] is None
    ones = (await client.get("/predictions", params={"model": "penguins", "version": "1"})).json()
    assert {row["id"] for row in ones["predictions"]} == set(ids[0::2])
    nothing = (await client.get("/predictions", params={"until": "2020-01-01T00:00:00Z"})).json()
    assert nothing == {"predictions": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("query", "status", "slug"),
    [
        ("limit=0", 422, "invalid-parameters"),
        ("limit=many", 422, "invalid-parameters"),
        ("since=yesterday", 422, "invalid-parameters"),
        ("since=1767225600", 422, "invalid-parameters"),
        ("until=0.5", 422, "invalid-parameters"),
        ("until=1e-5", 422, "invalid-parameters"),
        ("cursor=", 422, "invalid-parameters"),
        ("cursor=forged", 422, "invalid-parameters"),
        ("modle=penguins", 422, "invalid-parameters"),
        ("since=2026-01-01T00:00:00", 422, "invalid-parameters"),
        ("model=%00", 422, "invalid-parameters"),
    ],
)
async def test_a_bad_query_is_refused(client: httpx.AsyncClient, query: str, status: int, slug: str) -> None:
    assert_problem(await client.get(f"/predictions?{query}"), status, slug, "")


async def test_a_prediction_that_is_not_in_the_log_is_unknown(client: httpx.AsyncClient) -> None:
    absent = "01890a5d-ac96-774b-bcce-b302099a8057"

    assert_problem(await client.get(f"/predictions/{absent}"), 404, "unknown-prediction", absent)
    assert_problem(await client.get("/predictions/not-a-uuid"), 422, "invalid-parameters", "id")


# --- models, health, documentation ----------------------------------------------------------------------------------
async def test_a_model_says_what_it_takes_and_how_good_it_is(client: httpx.AsyncClient) -> None:
    model = (await client.get("/models/penguins")).json()

    assert model["input"]["shape"] == [3]
    assert model["classes"] == ["Adelie", "Chinstrap", "Gentoo"]
    versions = {version["version"]: version for version in model["versions"]}
    assert set(versions) == {"1", "2"}
    assert versions["2"]["default"]
    assert versions["2"]["metrics"] != versions["1"]["metrics"]
    assert_problem(await client.get("/models/whales"), 404, "unknown-model", "penguins")


async def test_health_names_each_component(client: httpx.AsyncClient) -> None:
    health = await client.get("/health")
    ready = await client.get("/health/ready")
    live = await client.get("/health/live")

    assert health.status_code == ready.status_code == live.status_code == 200
    assert health.json()["status"] == "ok"
    assert {name: part["status"] for name, part in health.json()["components"].items()} == {
        "models": "up",
        "redis": "up",
        "postgres": "up",
        "spool": "up",
    }


async def test_the_documentation_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/redoc"):
        page = await client.get(path)
        assert page.status_code == 200
        assert "https://" not in page.text.replace("https://github.com", "")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js"):
        assert len((await client.get(f"/static-offline-docs/{asset}")).content) > 10_000


async def test_metrics_count_what_was_answered(client: httpx.AsyncClient) -> None:
    def count(text: str) -> float:
        name = 'shoal_predictions_total{cache="miss",model="digits",version="2"}'
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    before = count((await client.get("/metrics")).text)
    image = np.random.default_rng(7).integers(0, 17, (8, 8)).tolist()
    await client.post("/models/digits/predict", json={"features": image})

    assert count((await client.get("/metrics")).text) == before + 1
