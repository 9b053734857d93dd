"""/admin: what operators do. For those inside only, as nginx answers 404 to whatever begins so; and of those only for
the holder of the admin token, which access/gate.py looks at."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.dependencies import CurrentReplica
from api.routes.responses import problem_responses
from api.schemas import FlushRequest, FlushResponse

router = APIRouter(prefix="/admin", tags=["admin"])


@router.post(
    "/cache/flush",
    responses={
        202: {"description": "Flushed, but for workers that hang.", "model": FlushResponse},
        **problem_responses(400, 404, 422, 500, 503),
    },
)
async def flush_cache(wanted: FlushRequest, replica: CurrentReplica, response: Response) -> FlushResponse:
    """Leave behind all cached answers of a model, in Redis and in the memory of every worker of every replica.

    A 200 means that all of them have: a prediction that is asked for from now on is computed anew. A 202 means that
    some worker hangs, and will do so when it goes on.
    """
    replica.repository.resolve(wanted.model, wanted.version)  # raises UnknownModel, UnknownVersion
    flushed = await replica.epochs.flush(wanted.model, wanted.version)
    if flushed.pending:
        response.status_code = 202
    return FlushResponse(model=wanted.model, version=wanted.version, **flushed._asdict())
