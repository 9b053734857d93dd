"""GET /predictions: the log, readable."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.dependencies import CurrentReplica
from api.errors import UnknownPrediction
from api.routes.parameters import PredictionId
from api.routes.responses import problem_responses
from api.schemas import LoggedPrediction, PredictionPage

router = APIRouter(prefix="/predictions", tags=["prediction log"])


@router.get("", response_model=PredictionPage, responses=problem_responses(400, 422, 503))
async def list_predictions(
    replica: CurrentReplica,
    model: Annotated[str | None, Query(description="Only this model's.", examples=["penguins"])] = None,
    version: Annotated[str | None, Query(description="Only this version's.", examples=["2"])] = None,
    since: Annotated[datetime | None, Query(description="Not before this time, ISO 8601 with its zone.")] = None,
    until: Annotated[datetime | None, Query(description="Before this time, ISO 8601 with its zone.")] = None,
    limit: Annotated[int, Query(description="Rows on a page.", ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> dict[str, Any]:
    """Logged predictions, newest first. Pages follow a cursor, so rows that arrive meanwhile shift nothing."""
    rows, next_cursor = await replica.log.queries.page(
        model=model, version=version, since=since, until=until, limit=limit, cursor=cursor
    )
    return {"predictions": rows, "next_cursor": next_cursor}


@router.get("/{id}", response_model=LoggedPrediction, responses=problem_responses(404, 422, 503))
async def get_prediction(id: PredictionId, replica: CurrentReplica) -> dict[str, Any]:
    """One logged prediction. While Postgres is away, what was answered meanwhile is durable but not yet readable."""
    row = await replica.log.queries.get(id)
    if row is None:
        raise UnknownPrediction(f"expected the id of a logged prediction, got {id}")
    return row
