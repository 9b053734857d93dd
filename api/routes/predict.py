"""POST /predict and its kin: a body in, rows through the predictor, a reply out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from starlette.types import Receive, Scope, Send

from api import metrics, problems
from api.context import RequestContext
from api.errors import ServingError
from api.flights import Served
from api.predictor import Caller, Prediction
from api.replica import Replica
from api.replies import read_json_body, send_problem, send_reply
from api.routes.hot import HotRoute
from api.routes.parameters import Name, Version
from api.routes.responses import problem_responses
from api.schemas import BatchRequest, BatchResponse, PredictRequest, PredictResponse


async def answer(scope: Scope, receive: Receive, send: Send, *, many: bool) -> None:
    """The handler of all of them. many: whether the body holds one row or a batch."""
    context: RequestContext = scope["shoal"]
    replica: Replica = scope["state"]["replica"]
    try:
        named = scope.get("path_params", {})
        served = replica.resolve(named.get("name"), named.get("version"))
        context.model, context.version = served.model, served.version
        body = await read_json_body(context, receive, max_bytes=replica.max_body_bytes)
        begun = time.monotonic()
        rows = served.decoder.many(body) if many else [served.decoder.one(body)]
        metrics.STAGE_DECODE.observe(time.monotonic() - begun)
        if context.proxy_seconds is not None:
            metrics.STAGE_PROXY.observe(context.proxy_seconds)
        caller = Caller(
            request_id=context.request_id,
            unix_ms=context.unix_ms,
            seed=context.seed,
            deadline=context.arrived + replica.deadline_seconds,
        )
        predictions = await replica.predictor.predict(served, rows, caller)
    except ServingError as error:
        await send_problem(send, context, problems.of(error), str(error), error)
        return
    context.rows = len(predictions)
    context.cache = _cache_word(predictions)
    reply = _batch_reply(served, predictions) if many else _reply(served, predictions[0])
    headers = [(b"content-type", b"application/json"), (b"x-cache", context.cache.encode())]
    await send_reply(send, 200, headers, reply)


def _cache_word(predictions: Sequence[Prediction]) -> str:
    words = {prediction.cache for prediction in predictions}
    return words.pop() if len(words) == 1 else "mixed"


def _members(prediction: Prediction) -> bytes:
    return b'"id":"%b",%b' % (str(prediction.id).encode(), prediction.answer.fields)


def _reply(served: Served, prediction: Prediction) -> bytes:
    cached = b"true" if prediction.cached else b"false"
    return b'{%b,%b,"cached":%b}' % (_members(prediction), served.fields, cached)


def _batch_reply(served: Served, predictions: Sequence[Prediction]) -> bytes:
    rows = b",".join(
        b'{%b,"cached":%b}' % (_members(prediction), b"true" if prediction.cached else b"false")
        for prediction in predictions
    )
    return b'{"predictions":[%b],%b}' % (rows, served.fields)


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


_ONE = partial(answer, many=False)
_MANY = partial(answer, many=True)
_RESPONSES = problem_responses(400, 404, 413, 415, 422, 429, 500, 503, 504) | {
    200: {
        "headers": {
            "X-Cache": {
                "description": "Where the answer came from: `local`, `redis`, `coalesced` or `miss`;"
                " for a batch whose rows differ, `mixed`.",
                "schema": {"type": "string", "enum": ["local", "redis", "coalesced", "miss", "mixed"]},
            }
        }
    }
}

ROUTES = [
    HotRoute(path, signature, handler, tags=["predictions"], responses=_RESPONSES)
    for path, signature, handler in (
        ("/predict", predict, _ONE),
        ("/predict/batch", predict_batch, _MANY),
        ("/models/{name}/predict", predict_with_model, _ONE),
        ("/models/{name}/predict/batch", predict_batch_with_model, _MANY),
        ("/models/{name}/versions/{version}/predict", predict_with_version, _ONE),
        ("/models/{name}/versions/{version}/predict/batch", predict_batch_with_version, _MANY),
    )
]
