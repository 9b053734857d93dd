"""POST /predict and its kin: a body in, rows through the predictor, a reply out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from api import metrics, problems
from api.context import RequestContext
from api.errors import ServingError
from api.flights import Served
from api.predictor import Caller, Predictions
from api.replica import Replica
from api.replies import JSON, Reply, problem_reply, read_json_body, send_reply
from api.routes.hot import HotRoute
from api.routes.parameters import Name, Version
from api.routes.responses import problem_responses
from api.schemas import BatchRequest, BatchResponse, PredictRequest, PredictResponse


async def answer(
    context: RequestContext, replica: Replica, named: Mapping[str, str], body: bytes, *, many: bool
) -> Reply:
    """The one behind all of them, whichever way the request came.

    Waits for plain futures only; see Predictor.

    Args:
        named: the model's name and version, if the path has them.
        many: whether the body holds one row or a batch.
    """
    received = time.monotonic()
    metrics.STAGE_RECEIVE.observe(received - context.arrived)
    try:
        replica.in_flight.check_room()
        served = replica.resolve(named.get("name"), named.get("version"))
        context.model, context.version = served.model, served.version
        rows = served.decoder.many(body) if many else [served.decoder.one(body)]
        metrics.STAGE_DECODE.observe(time.monotonic() - received)
        if context.proxy_seconds is not None:
            metrics.STAGE_PROXY.observe(context.proxy_seconds)
        predictions = await replica.predictor.predict(
            served, rows, Caller(context.request_id, context.unix_ms, context.seed)
        )
    except ServingError as error:
        return problem_reply(context, problems.of(error), str(error), error)
    context.answered = time.monotonic()
    context.rows = len(rows)
    context.cache = predictions.tier
    return Reply(200, _HEADERS[context.cache], (_batch_body if many else _body)(served, predictions))


_HEADERS = {
    tier: ((b"content-type", JSON), (b"x-cache", tier.encode()))
    for tier in ("local", "redis", "coalesced", "miss", "mixed")
}
# The end of a row's answer. cached: found, and not computed for this request or one that came just before.
_CACHED = {tier: b',"cached":%b}' % (b"true" if tier in ("local", "redis") else b"false") for tier in _HEADERS}


def _body(served: Served, predictions: Predictions) -> bytes:
    return b"".join(
        (
            b'{"id":"',
            uuid_text(predictions.first_id),
            b'",',
            predictions.answers[0].members,
            b",",
            served.members,
            _CACHED[predictions.tiers[0]],
        )
    )


def _batch_body(served: Served, predictions: Predictions) -> bytes:
    rows = [
        b'{"id":"%b",%b%b' % (uuid_text(id), answer.members, _CACHED[tier])
        for id, (answer, tier) in enumerate(
            zip(predictions.answers, predictions.tiers, strict=True), predictions.first_id
        )
    ]
    return b'{"predictions":[%b],%b}' % (b",".join(rows), served.members)


def uuid_text(id: int) -> bytes:
    """As UUID(int=id) has it, in a quarter of the time."""
    digits = b"%032x" % id
    return b"-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


async def serve(scope: Scope, receive: Receive, send: Send, *, many: bool) -> None:
    """The handler over ASGI: for requests that are not as plain as protocol.py wants them, and for other servers."""
    context: RequestContext = scope["shoal"]
    replica: Replica = scope["state"]["replica"]
    try:
        body = await read_json_body(context, receive, max_bytes=replica.max_body_bytes)
        async with asyncio.timeout(replica.in_flight.deadline_seconds):
            reply = await answer(context, replica, scope.get("path_params", {}), body, many=many)
    except TimeoutError:
        error = replica.in_flight.overdue()
        reply = problem_reply(context, problems.of(error), str(error), error)
    except ServingError as error:
        reply = problem_reply(context, problems.of(error), str(error), error)
    await send_reply(send, reply)


# --- OpenAPI: what the routes take and give. FastAPI reads these signatures; HotRoute answers in their place.


def predict(body: PredictRequest) -> PredictResponse:  # type: ignore[empty-body]
    """Answer one row with the default model.

    A 200 means that the answer is in the prediction log, durably. The header `X-Cache` says where it came from:
    `local`, `redis`, `coalesced` (shared with an equal row in flight) or `miss` (the model ran).
    """


def predict_batch(body: BatchRequest) -> BatchResponse:  # type: ignore[empty-body]
    """Answer many rows with the default model, in order. Each row is looked up, logged and counted by itself."""


def predict_with_model(name: Name, body: PredictRequest) -> PredictResponse:  # type: ignore[empty-body]
    """Answer one row with the model's default version."""


def predict_batch_with_model(name: Name, body: BatchRequest) -> BatchResponse:  # type: ignore[empty-body]
    """Answer many rows with the model's default version."""


def predict_with_version(name: Name, version: Version, body: PredictRequest) -> PredictResponse:  # type: ignore[empty-body]
    """Answer one row with one version of the model."""


def predict_batch_with_version(name: Name, version: Version, body: BatchRequest) -> BatchResponse:  # type: ignore[empty-body]
    """Answer many rows with one version of the model."""


_ERRORS = problem_responses(400, 404, 413, 415, 422, 429, 500, 503, 504)


def _responses(*, many: bool) -> dict[int | str, dict[str, Any]]:
    id = "$response.body#/predictions/0/id" if many else "$response.body#/id"
    logged = {"operationRef": "#/paths/~1predictions~1{id}/get", "parameters": {"id": id}}
    return _ERRORS | {
        200: {
            "links": {"logged": {**logged, "description": "The row, as the log has it."}},
            "headers": {
                "X-Cache": {
                    "description": "Where the answer came from: `local`, `redis`, `coalesced` or `miss`;"
                    " for a batch whose rows differ, `mixed`.",
                    "schema": {"type": "string", "enum": ["local", "redis", "coalesced", "miss", "mixed"]},
                }
            },
        }
    }


ROUTES = [
    HotRoute(
        path,
        signature,
        answer=partial(answer, many=many),
        serve=partial(serve, many=many),
        tags=["predictions"],
        responses=_responses(many=many),
    )
    for path, signature, many in (
        ("/predict", predict, False),
        ("/predict/batch", predict_batch, True),
        ("/models/{name}/predict", predict_with_model, False),
        ("/models/{name}/predict/batch", predict_batch_with_model, True),
        ("/models/{name}/versions/{version}/predict", predict_with_version, False),
        ("/models/{name}/versions/{version}/predict/batch", predict_batch_with_version, True),
    )
]
