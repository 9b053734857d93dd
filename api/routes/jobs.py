"""/jobs: predictions of many rows, asked for now and answered by and by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect

from api.context import RequestContext
from api.dependencies import CurrentReplica
from api.errors import BodyTooLarge, UnsupportedMediaType
from api.jobs import formats, results
from api.jobs.intake import ROWS_AT_ONCE, Intake
from api.jobs.job import FINISHED, PRIORITIES, NewJob, Row, job_id
from api.models.repository import ModelVersion
from api.replies import ClientLeft
from api.routes.parameters import IdempotencyKey, JobId
from api.routes.responses import problem_responses
from api.rows import RowDecoder
from api.schemas import Features, JobDetails, JobPage, JobPageParameters, JobParameters, JobProgress, ResultsParameters

router = APIRouter(prefix="/jobs", tags=["jobs"])

_KEEP_ALIVE_SECONDS = 5  # between signs of life on a stream of events; below nginx's proxy_read_timeout (15 s)
_FORMATS = {
    "application/json": "JSON: `{\"instances\": [row, …]}`, or only the list.",
    "application/x-ndjson": "A row a line, or `{\"features\": row}`.",
    "text/csv": "A row a line; the first may name the columns.",
}  # fmt: skip
_ROWS = {"type": "array", "minItems": 1, "items": TypeAdapter(Features).json_schema()}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"instances": _ROWS},
                        "required": ["instances"],
                        "additionalProperties": False,
                    },
                    _ROWS,
                ]
            },
            "example": {"instances": [[39.1, 18.7, 181.0], [46.5, 17.9, 192.0]]},
        },
        "application/x-ndjson": {
            "schema": {"type": "string", "minLength": 1},
            "example": "[39.1, 18.7, 181.0]\n[46.5, 17.9, 192.0]\n",
        },
        "text/csv": {
            "schema": {"type": "string", "minLength": 1},
            "example": "39.1,18.7,181.0\n46.5,17.9,192.0\n",
        },
    },
}


def _link(method: str, path: str, description: str) -> dict[str, Any]:
    """From the answer that has a new job's id to what may be asked of it."""
    reference = f"#/paths/{path.replace('/', '~1')}/{method}"
    return {"operationRef": reference, "parameters": {"id": "$response.body#/id"}, "description": description}


_LINKS = {
    "progress": _link("get", "/jobs/{id}", "How far it is."),
    "results": _link("get", "/jobs/{id}/results", "Its answers, once it has ended."),
    "cancelling": _link("delete", "/jobs/{id}", "Cancels it."),
}


@router.post(
    "",
    status_code=202,
    responses=problem_responses(400, 404, 409, 413, 415, 422, 500, 503) | {202: {"links": _LINKS}},
    openapi_extra={"requestBody": _BODY},
)
async def submit_job(
    request: Request,
    response: Response,
    replica: CurrentReplica,
    wanted: Annotated[JobParameters, Query()],
    idempotency_key: IdempotencyKey = None,
) -> JobProgress:
    """Ask for predictions of many rows, as JSON, NDJSON or CSV, read as they arrive.

    A 202 means that all rows fit the model and that the job will be run, whatever happens to this server. Else nothing
    is left of it.
    """
    context: RequestContext = request.scope["shoal"]
    chosen = replica.repository.resolve(wanted.model or replica.default_model, wanted.version)
    jobs = replica.jobs
    if wanted.callback_url is not None:
        jobs.callbacks.check(wanted.callback_url)
    if int(request.headers.get("content-length", "0")) > jobs.limits.body_bytes:
        raise BodyTooLarge(f"expected a body of at most {jobs.limits.body_bytes} bytes, got more")
    media_type, form = _format(request, chosen)
    job = NewJob(
        id=job_id(context.unix_ms, context.seed),
        unix_ms=context.unix_ms,
        model=chosen.name,
        version=chosen.version,
        priority=PRIORITIES.index(wanted.priority),
        request_id=context.request_id,
        idempotency_key=idempotency_key,
        callback_url=wanted.callback_url,
    )
    intake = Intake(
        jobs.store,
        job,
        RowDecoder(chosen.input_shape, max_rows=ROWS_AT_ONCE),
        form,
        jobs.limits,
        parameters=msgspec.json.encode([media_type, wanted.model_dump()]),
    )
    try:
        taken, digest = await intake.take(request.stream())
    except ClientDisconnect as error:
        raise ClientLeft from error
    if taken is None:
        row = await jobs.store.repeated(idempotency_key or "", digest)
        response.headers["Idempotent-Replayed"] = "true"
    else:
        row = await jobs.store.get(taken.id)
    response.headers["Location"] = f"/jobs/{row['id']}"
    return JobProgress.model_validate(_progress(row))


@router.get("", responses=problem_responses(422, 500, 503))
async def list_jobs(replica: CurrentReplica, wanted: Annotated[JobPageParameters, Query()]) -> JobPage:
    """Jobs, newest first, in pages."""
    rows = await replica.jobs.store.page(wanted.state, wanted.limit + 1, wanted.cursor)
    page = [JobProgress.model_validate(_progress(row)) for row in rows[: wanted.limit]]
    return JobPage(jobs=page, next_cursor=page[-1].id if len(rows) > wanted.limit else None)


@router.get("/{id}", responses=problem_responses(404, 422, 500, 503))
async def get_job(id: JobId, replica: CurrentReplica) -> JobDetails:
    """How far a job is, which rows failed, what was given up, and what became of its callback."""
    return _details(await replica.jobs.store.get(id))


@router.get(
    "/{id}/results",
    response_class=Response,
    responses={
        200: {
            "description": "Answers in the order of the rows; a row that failed has `error` and `detail` instead. With"
            " `limit` the header `Link` has the next page.",
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}},
                "text/csv": {"schema": {"type": "string"}},
            },
        },
        **problem_responses(404, 409, 422, 500, 503),
    },
)
async def get_results(id: JobId, replica: CurrentReplica, wanted: Annotated[ResultsParameters, Query()]) -> Response:
    """The answers, all of them or a page, read from the prediction log as they are sent.

    They are in `GET /predictions/{id}` too. Of a job that has not ended, 409, or with `partial=true` what there is.
    """
    jobs = replica.jobs
    row = (await jobs.store.look([id]) or [{}])[0] if wanted.partial else await jobs.store.finished(id)
    if not row:
        row = await jobs.store.get(id)  # raises UnknownJob
    is_csv = wanted.format == "csv"
    encode = results.csv_lines if is_csv else results.ndjson
    pieces = jobs.results.pieces(id, wanted.offset, wanted.limit, encode)

    async def body() -> AsyncIterator[bytes]:
        if is_csv:
            yield results.CSV_HEAD
        async for piece in pieces:
            yield piece

    headers = {"X-Job-State": row["state"]}
    if wanted.limit is not None and wanted.offset + wanted.limit < row["rows"]:
        partial = "&partial=true" if wanted.partial else ""
        following = f"format={wanted.format}&offset={wanted.offset + wanted.limit}&limit={wanted.limit}{partial}"
        headers["Link"] = f'</jobs/{id}/results?{following}>; rel="next"'
    return StreamingResponse(body(), media_type="text/csv" if is_csv else "application/x-ndjson", headers=headers)


@router.get(
    "/{id}/events",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: `progress` with each change, `end` last. Data: the job.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problem_responses(404, 422, 500, 503),
    },
)
async def watch_job(id: JobId, replica: CurrentReplica) -> Response:
    """See a job get on, as server-sent events. Where it breaks off, ask again: it begins with how things are."""
    changes = replica.jobs.progress.of(id, _KEEP_ALIVE_SECONDS)
    first = await anext(changes)  # raises UnknownJob, while there can still be a status

    async def events() -> AsyncIterator[bytes]:
        yield b"retry: 1000\n\n"
        yield _event(first)
        async for row in changes:
            yield _event(row)

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


@router.delete("/{id}", responses=problem_responses(404, 409, 422, 500, 503))
async def cancel_job(id: JobId, replica: CurrentReplica) -> JobProgress:
    """Cancel a job, also while it runs. What is answered already stays; once this returns no further row will be."""
    return JobProgress.model_validate(_progress(await replica.jobs.store.cancel(id)))


@router.post("/{id}/requeue", responses=problem_responses(404, 409, 422, 500, 503))
async def requeue_job(id: JobId, replica: CurrentReplica) -> JobProgress:
    """Try what was given up of a job again, with as many attempts as at first."""
    return JobProgress.model_validate(_progress(await replica.jobs.store.requeue(id)))


def _format(request: Request, version: ModelVersion) -> tuple[str, formats.Format]:
    """The media type, and what reads rows of it. Raises UnsupportedMediaType."""
    features = version.manifest.input.features
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = formats.of(media_type, version.input_shape, [feature.name for feature in features] if features else None)
    if form is None:
        raise UnsupportedMediaType(f"expected one of {', '.join(_FORMATS)}, got {media_type or 'no content-type'}")
    return media_type, form


def _progress(row: Row) -> Row:
    """What is seen of a job, with what can be reckoned of it."""
    until = row["finished_at"] or row["now"]
    seconds = (until - row["started_at"]).total_seconds() if row["started_at"] else 0.0
    rate = row["rows_done"] / seconds if seconds > 0 and row["rows_done"] else None
    is_finished = row["state"] in FINISHED
    return {
        **{name: row[name] for name in JobProgress.model_fields if name in row},
        "priority": PRIORITIES[row["priority"]],
        "rows_per_second": round(rate, 1) if rate else None,
        "eta_seconds": round((row["rows"] - row["rows_done"]) / rate, 1) if rate and not is_finished else None,
    }


def _details(row: Row) -> JobDetails:
    callback = row["callback_url"] and {
        "url": row["callback_url"],
        "state": row["callback_state"] or "waiting",
        "deliveries": row["callbacks"],
    }
    return JobDetails.model_validate(
        _progress(row)
        | {
            "attempts": row["attempts"][0]["attempts"],
            "errors": row["errors"],
            "dead_chunks": row["dead"],
            "callback": callback,
        }
    )


def _event(row: Row | None) -> bytes:
    if row is None:
        return b": still here\n\n"
    name = b"end" if row["state"] in FINISHED else b"progress"
    return b"event: %b\ndata: %b\n\n" % (name, JobProgress.model_validate(_progress(row)).model_dump_json().encode())
