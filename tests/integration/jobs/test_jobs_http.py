"""Jobs as a client sees them, without a worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from api.jobs.packing import unpack
from api.lifespan import Programs
from api.models.repository import Repository
from api.settings import Settings
from tests.conftest import Database
from tests.integration.conftest import served
from tests.integration.jobs.conftest import job, rows, submit
from tests.servers import eventually_async

NDJSON = {"Content-Type": "application/x-ndjson"}


def jobs_in(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        [count] = connection.execute("SELECT count(*) FROM jobs").fetchone() or (0,)
        return int(count)


def ndjson(some: list[list[float]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in some).encode()


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/json", json.dumps({"instances": rows(250)}).encode()),
        ("application/json; charset=utf-8", json.dumps(rows(250)).encode()),
        ("application/x-ndjson", ndjson(rows(250))),
        ("text/csv", "\n".join(",".join(map(str, row)) for row in rows(250)).encode()),
        (
            "text/csv",
            b"flipper_length_mm,bill_length_mm,bill_depth_mm\n"
            + "\n".join(f"{c},{a},{b}" for a, b, c in rows(250)).encode(),
        ),
    ],
)
async def test_a_job_is_taken_in_whatever_form_it_comes(
    client: httpx.AsyncClient, settings: Settings, media_type: str, body: bytes
) -> None:
    answer = await client.post("/jobs?priority=high", content=body, headers={"Content-Type": media_type})

    assert answer.status_code == 202, answer.text
    state = answer.json()
    assert answer.headers["Location"] == f"/jobs/{state['id']}"
    assert (state["state"], state["rows"], state["rows_done"], state["priority"]) == ("queued", 250, 0, "high")
    assert (state["model"], state["version"]) == ("penguins", "2")
    with psycopg.connect(settings.postgres_dsn) as connection:
        chunks = connection.execute(
            "SELECT first_row, rows, input FROM job_chunks WHERE state = 'ready' ORDER BY number"
        ).fetchall()
    assert [chunk[:2] for chunk in chunks] == [(0, 100), (100, 100), (200, 50)]
    assert [json.loads(row.text) for chunk in chunks for row in unpack(chunk[2])] == rows(250)


@pytest.mark.parametrize(
    ("path", "media_type", "body", "status", "slug", "detail"),
    [
        ("/jobs", "application/xml", b"<rows/>", 415, "unsupported-media-type", "got application/xml"),
        ("/jobs", "text/csv", b"", 400, "invalid-request", "expected at least 1 row, got 0"),
        ("/jobs", "application/json", b"{}", 400, "invalid-request", "the body ended before it did"),
        ("/jobs", "text/csv", b"1,2,3\n1,2\n", 422, "invalid-rows", "expected 3 features per row, got 2 (row 1)"),
        ("/jobs", "text/csv", b"1,2,3\n1,x,3\n", 422, "invalid-rows", "got a string (row 1[1])"),
        ("/jobs?model=nobody", "text/csv", b"1,2,3\n", 404, "unknown-model", "'nobody'"),
        ("/jobs?version=9", "text/csv", b"1,2,3\n", 404, "unknown-version", "9"),
        ("/jobs?priority=highest", "text/csv", b"1,2,3\n", 422, "invalid-parameters", "priority"),
        ("/jobs?prio=high", "text/csv", b"1,2,3\n", 422, "invalid-parameters", "prio"),
        (
            "/jobs?callback_url=https://example.com/",
            "text/csv",
            b"1,2,3\n",
            422,
            "invalid-parameters",
            "CALLBACK_SECRET",
        ),
    ],
)
async def test_what_is_wrong_with_a_job_is_said_and_nothing_is_left_of_it(
    client: httpx.AsyncClient, settings: Settings, path: str, media_type: str, body: bytes, status: int, slug: str,
    detail: str,
) -> None:  # fmt: skip
    answer = await client.post(path, content=body, headers={"Content-Type": media_type})

    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:shoal:problem:{slug}"), answer.text
    assert detail in answer.json()["detail"]
    assert jobs_in(settings.postgres_dsn) == 0


async def test_a_row_that_does_not_fit_is_found_after_chunks_were_put_away(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    body = ndjson(rows(1234)) + b"[1.0,2.0]\n" + ndjson(rows(500))
    answer = await client.post("/jobs", content=body, headers=NDJSON)

    assert answer.status_code == 422
    assert answer.json()["detail"] == "expected 3 features per row, got 2 (row 1234)"
    assert jobs_in(settings.postgres_dsn) == 0


async def test_a_client_that_leaves_half_way_leaves_nothing(client: httpx.AsyncClient, settings: Settings) -> None:
    went_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield ndjson(rows(1000))
        await went_on.wait()

    leaving = asyncio.create_task(client.post("/jobs", content=body(), headers=NDJSON))
    await eventually_async(lambda: jobs_in(settings.postgres_dsn))
    assert (await client.get("/jobs")).json()["jobs"] == []  # not a job yet
    leaving.cancel()
    await eventually_async(lambda: not jobs_in(settings.postgres_dsn))


@pytest.mark.parametrize(
    ("limit", "slug"), [({"job_max_rows": 150}, "too-many-rows"), ({"job_max_body_bytes": 2000}, "body-too-large")]
)
async def test_a_job_has_limits(
    settings: Settings, shipped_models: tuple[Repository, Programs], limit: dict[str, int], slug: str
) -> None:
    async def piecewise() -> AsyncIterator[bytes]:
        yield ndjson(rows(200))

    async with served(settings.model_copy(update=limit), *shipped_models) as client:
        for body in (ndjson(rows(200)), piecewise()):  # of a length that is said, and not
            answer = await client.post("/jobs", content=body, headers=NDJSON)
            assert (answer.status_code, answer.json()["type"]) == (413, f"urn:shoal:problem:{slug}")
    assert jobs_in(settings.postgres_dsn) == 0


# --- Idempotency-Key --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [3, 300])
async def test_a_request_that_is_sent_again_with_its_key_is_the_same_job(
    client: httpx.AsyncClient, settings: Settings, count: int
) -> None:
    headers = {**NDJSON, "Idempotency-Key": "order-66"}
    first, second = [await client.post("/jobs", content=ndjson(rows(count)), headers=headers) for _ in range(2)]

    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json() == first.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    assert jobs_in(settings.postgres_dsn) == 1


async def test_a_key_belongs_to_one_request(client: httpx.AsyncClient) -> None:
    headers = {**NDJSON, "Idempotency-Key": "order-66"}
    await client.post("/jobs", content=ndjson(rows(3)), headers=headers)
    for path, body in (("/jobs", ndjson(rows(4))), ("/jobs?priority=low", ndjson(rows(3)))):
        answer = await client.post(path, content=body, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:shoal:problem:idempotency-key-reused")


async def test_a_key_whose_request_is_still_arriving_is_in_use(client: httpx.AsyncClient, settings: Settings) -> None:
    finish = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield ndjson(rows(1000))
        await finish.wait()

    headers = {**NDJSON, "Idempotency-Key": "slow"}
    slow = asyncio.create_task(client.post("/jobs", content=body(), headers=headers))
    await eventually_async(lambda: jobs_in(settings.postgres_dsn))
    meanwhile = await client.post("/jobs", content=ndjson(rows(1000)), headers=headers)
    finish.set()

    assert (meanwhile.status_code, meanwhile.json()["type"]) == (409, "urn:shoal:problem:idempotency-key-in-use")
    assert meanwhile.headers["Retry-After"] == "5"
    assert (await slow).status_code == 202


async def test_a_key_whose_upload_broke_off_is_free_again(client: httpx.AsyncClient, settings: Settings) -> None:
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
        # As a replica leaves it that was killed half way.
        connection.execute(
            "INSERT INTO jobs (id, created_at, model, version, priority, request_id, idempotency_key, progressed_at)"
            " VALUES (gen_random_uuid(), now(), 'penguins', '2', 1, 'x', 'broken', now() - interval '16 s')"
        )
    answer = await client.post("/jobs", content=ndjson(rows(3)), headers={**NDJSON, "Idempotency-Key": "broken"})
    assert answer.status_code == 202
    assert jobs_in(settings.postgres_dsn) == 1


# --- what there is ----------------------------------------------------------------------------------------------------
async def test_jobs_are_listed_in_pages_newest_first(client: httpx.AsyncClient) -> None:
    ids = [await submit(client, rows(1)) for _ in range(5)]
    await client.delete(f"/jobs/{ids[0]}")
    listed: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = (await client.get("/jobs", params={"limit": 2, **cursor})).json()
        listed += [each["id"] for each in page["jobs"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(listed, reverse=True) == sorted(ids, reverse=True)
    assert [each["id"] for each in (await client.get("/jobs?state=cancelled")).json()["jobs"]] == [ids[0]]


async def test_a_job_that_nobody_asked_for_is_unknown(client: httpx.AsyncClient) -> None:
    nobody = "/jobs/01a20abb-82e9-7aa5-9208-7c5fb02a369a"
    for method, path in (
        ("GET", ""), ("GET", "/results"), ("GET", "/results?partial=true"), ("GET", "/events"), ("DELETE", ""),
        ("POST", "/requeue"),
    ):  # fmt: skip
        answer = await client.request(method, nobody + path)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:shoal:problem:unknown-job"), path


async def test_a_job_is_cancelled_once_and_stays_so(client: httpx.AsyncClient) -> None:
    id = await submit(client, rows(250))
    assert (await client.delete(f"/jobs/{id}")).json()["state"] == "cancelled"
    assert (await client.delete(f"/jobs/{id}")).json()["state"] == "cancelled"
    assert (await client.post(f"/jobs/{id}/requeue")).status_code == 409
    assert (await client.get(f"/jobs/{id}/results")).text == ""


async def test_what_is_requeued_has_all_its_attempts_again(client: httpx.AsyncClient, settings: Settings) -> None:
    id = await submit(client, rows(150))
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
        # As workers leave it that gave up its second chunk.
        connection.execute("UPDATE job_chunks SET state = CASE number WHEN 0 THEN 'done' ELSE 'dead' END")
        connection.execute("UPDATE job_chunks SET attempts_left = 0, attempt = 5")
        connection.execute("UPDATE jobs SET state = 'failed', chunks_left = 0, chunks_dead = 1, finished_at = now()")

        state = (await client.post(f"/jobs/{id}/requeue")).json()

        assert (state["state"], state["finished_at"]) == ("running", None)
        chunks = connection.execute("SELECT state, attempts_left FROM job_chunks ORDER BY number").fetchall()
        assert chunks == [("done", 0), ("ready", settings.job_max_attempts)]


async def test_who_watches_a_job_sees_its_end_though_it_could_not_be_looked_at_for_a_while(
    client: httpx.AsyncClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def rename(old: str, new: str) -> None:
        with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
            connection.execute(f"ALTER TABLE jobs RENAME COLUMN {old} TO {new}".encode())

    id = await submit(client, rows(2))
    async with client.stream("GET", f"/jobs/{id}/events") as stream:
        await asyncio.to_thread(rename, "rows_failed", "rows_lost")  # no outage: a statement that is wrong
        await eventually_async(lambda: "could not be looked at" in caplog.text)
        await asyncio.to_thread(rename, "rows_lost", "rows_failed")
        await client.delete(f"/jobs/{id}")
        async with asyncio.timeout(30):
            assert "event: end" in [line async for line in stream.aiter_lines()]


async def test_results_of_a_job_that_has_not_ended_are_asked_for_as_such(client: httpx.AsyncClient) -> None:
    id = await submit(client, rows(2))
    answer = await client.get(f"/jobs/{id}/results")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:shoal:problem:job-unfinished")
    partial = await client.get(f"/jobs/{id}/results?partial=true")
    assert (partial.status_code, partial.text, partial.headers["X-Job-State"]) == (200, "", "queued")
    assert (await job(client, id))["state"] == "queued"


async def test_without_postgres_jobs_are_refused_and_predictions_are_not(
    settings: Settings, shipped_models: tuple[Repository, Programs]
) -> None:
    away = settings.model_copy(update={"postgres_dsn": "host=/nowhere user=postgres dbname=predictions"})
    async with served(away, *shipped_models) as client:
        answer = await client.post("/jobs", content=ndjson(rows(3)), headers=NDJSON)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:shoal:problem:jobs-unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await client.post("/predict", json={"features": rows(1)[0]})).status_code == 200


async def test_no_job_table_is_missing_a_comment(postgres: Database) -> None:
    with psycopg.connect(postgres.dsn) as connection:
        missing = connection.execute(
            "SELECT attrelid::regclass, attname FROM pg_attribute WHERE attrelid IN ('jobs'::regclass,"
            " 'job_chunks'::regclass, 'job_callbacks'::regclass) AND attnum > 0 AND NOT attisdropped"
            " AND col_description(attrelid, attnum) IS NULL"
        ).fetchall()
    assert missing == []
