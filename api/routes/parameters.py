"""Parameters of routes, described once."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Header, Path

Name = Annotated[str, Path(description="Name of the model, see `GET /models`.", examples=["penguins"])]
Version = Annotated[str, Path(description="One of the model's versions.", examples=["2"])]
PredictionId = Annotated[UUID, Path(description="`id` of a prediction, as its answer gave it.")]
JobId = Annotated[UUID, Path(description="`id` of a job, as the answer to its request gave it.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="Of your choice, new for each job. The same request with the same key is the same job, so it may be"
        " sent again when its answer got lost.",
    ),
]
