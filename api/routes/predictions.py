"""GET /predictions: the log, readable."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.dependencies import CurrentReplica
from api.errors import UnknownPrediction
from api.routes.parameters import PredictionId
from api.routes.responses import problem_responses
from api.schemas import LoggedPrediction, PageParameters, PredictionPage

router = APIRouter(prefix="/predictions", tags=["prediction log"])


@router.get("", response_model=PredictionPage, responses=problem_responses(422, 500, 503))
async def list_predictions(replica: CurrentReplica, wanted: Annotated[PageParameters, Query()]) -> dict[str, Any]:
    """Logged predictions, newest first. Pages follow a cursor, so rows that arrive meanwhile shift nothing."""
    rows, next_cursor = await replica.log.queries.page(**wanted.model_dump())
    return {"predictions": rows, "next_cursor": next_cursor}


@router.get("/{id}", response_model=LoggedPrediction, responses=problem_responses(404, 422, 500, 503))
async def get_prediction(id: PredictionId, replica: CurrentReplica) -> dict[str, Any]:
    """One logged prediction. While Postgres is away, what was answered meanwhile is durable but not yet readable."""
    row = await replica.log.queries.get(id)
    if row is None:
        raise UnknownPrediction(f"expected the id of a logged prediction, got {id}")
    return row
