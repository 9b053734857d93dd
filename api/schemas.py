"""The wire, for OpenAPI and for the routes that are not hot. No behaviour."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _of_a_calendar(value: Any) -> Any:
    """pydantic takes a number, too, and its text, as seconds since 1970; in a query that is a slip."""
    if isinstance(value, str) and not re.match(r"\d{4}-", value):
        raise ValueError("expected a time as ISO 8601 has it, as in 2026-01-31T00:00:00Z")
    return value


Time = Annotated[datetime, BeforeValidator(_of_a_calendar)]
Features = list[float] | list[list[float]] | list[list[list[float]]]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class PredictRequest(Strict):
    features: Annotated[Features, Field(examples=[[1.0, 2.0, 3.0]])]
    """One row: nested lists of finite numbers in exactly the model's input shape, see `GET /models/{name}`."""


class BatchRequest(Strict):
    instances: Annotated[list[Features], Field(examples=[[[39.1, 18.7, 181.0], [46.5, 17.9, 192.0]]])]
    """Rows, at least one; each as `features` of a single prediction."""


class RowAnswer(Strict):
    id: UUID
    """The row's id in the prediction log: `GET /predictions/{id}`."""
    prediction: Annotated[int | float | list[float], Field(examples=[1])]
    """Classification: the index of the class. Regression: the value, or a list where the model has several outputs."""
    label: Annotated[str, Field(examples=["Chinstrap"])] = ""
    """Classification only: the name of the class."""
    confidence: Annotated[float | None, Field(examples=[0.981234])]
    """Probability of the class, 0 to 1; null for a regression."""


class PredictResponse(RowAnswer):
    model: Annotated[str, Field(examples=["penguins"])]
    """The model that answered."""
    version: Annotated[str, Field(examples=["2"])]
    """Its version."""
    cached: bool
    """Whether the answer came from the cache, local or Redis, and not from a run for this request."""


class BatchedRowAnswer(RowAnswer):
    cached: bool
    """Whether this row's answer came from the cache."""


class BatchResponse(Strict):
    predictions: list[BatchedRowAnswer]
    """One for each row, in the order given."""
    model: str
    """The model that answered."""
    version: str
    """Its version."""


class ProblemBody(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: Annotated[str, Field(examples=["urn:shoal:problem:invalid-rows"])]
    """What kind of problem, for programs."""
    title: str
    """The same for people."""
    status: int
    """The HTTP status again."""
    detail: Annotated[str, Field(examples=["expected 3 features per row, got 2 (features)"])]
    """What was expected, what came and where."""
    request_id: str
    """The id to look for in the logs; also in the header X-Request-Id."""


class VersionInfo(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    version: str
    """Name of the version."""
    default: bool
    """Whether requests that name no version get this one."""
    description: str
    """What is particular about it."""
    created: str
    """Date it was made."""
    metrics: dict[str, float]
    """Measured on data it was not trained on."""
    training: str
    """How it was made."""
    quarantined: bool
    """Whether the replica that answers leaves it alone for a while, because workers died as they ran it."""
    sha256: str
    """Of the artefact."""
    digest: str
    """Of the artefact and the configuration that shapes its answers; what cache keys are bound to."""


class ModelInfo(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """Name of the model, as in its paths."""
    description: str
    """What it answers."""
    task: str
    """classification or regression."""
    input: dict[str, Any]
    """One row: name, dtype, shape and, where they have names, its features with their units."""
    classes: list[str] | None
    """Classification: the classes in the order of their indices."""
    outputs: list[dict[str, Any]] | None
    """Regression: the values with their units."""
    preprocessing: str
    """What the exported program does to a row before the network sees it. Send raw values."""
    data: dict[str, Any]
    """Where the training data comes from, and its licence."""
    example: list[Any]
    """A row to try."""
    versions: list[VersionInfo]
    """Those that are served."""


class RefusedModel(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    path: str
    """Where it lies in the model repository."""
    reason: str
    """Why it is not served."""


class ModelList(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    default: str
    """The model that /predict answers with."""
    models: list[ModelInfo]
    """Those that are served."""
    refused: list[RefusedModel]
    """Those that are not, and why."""


class LoggedPrediction(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, extra="allow")

    id: UUID
    """A UUIDv7: it sorts by time."""
    timestamp: datetime
    """When nginx took the request."""
    model: str
    """The model that answered."""
    version: str
    """Its version."""
    input_data: Any
    """The row as it was sent."""
    prediction: Any
    """Class index, value, or list of values."""
    label: str | None
    """Name of the class; null for a regression."""
    confidence: float | None
    """Probability of the class; null for a regression."""
    cache: str
    """local, redis, coalesced or miss."""
    request_id: str
    """The request it was part of."""


# What Postgres can hold. Only said here: queries.py looks, and tells what came.
_STORABLE: dict[str, Any] = {"pattern": r"^[^\x00]*$"}


class PageParameters(Strict):
    model: Annotated[str | None, Field(examples=["penguins"], json_schema_extra=_STORABLE)] = None
    """Only this model's."""
    version: Annotated[str | None, Field(examples=["2"], json_schema_extra=_STORABLE)] = None
    """Only this version's."""
    since: Time | None = None
    """Not before this time, ISO 8601 with its zone."""
    until: Time | None = None
    """Before this time, ISO 8601 with its zone."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """Rows on a page."""
    # What queries.py packs: 24 bytes, of which the first 8 are microseconds since 1970.
    cursor: Annotated[str | None, Field(pattern="^A[A-P][A-Za-z0-9_-]{30}$")] = None
    """`next_cursor` of the page before."""


class PredictionPage(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    predictions: list[LoggedPrediction]
    """Newest first."""
    next_cursor: str | None
    """Pass it as `cursor` for the next page; null on the last one."""


class FlushRequest(Strict):
    model: Annotated[str, Field(examples=["penguins"])]
    """The model whose cached answers are left behind."""
    version: Annotated[str | None, Field(examples=["2"])] = None
    """Only this version's; null for all."""


class FlushResponse(Strict):
    model: str
    """The model that was flushed."""
    version: str | None
    """Its version; null for all."""
    epoch: Annotated[int, Field(examples=[1767225600000000])]
    """When, in microseconds since 1970: part of the cache keys from now on."""
    workers: int
    """Workers, of all replicas, that have left the old answers behind."""
    pending: int
    """Workers that hang, and will do so when they go on."""


class JobParameters(Strict):
    model: Annotated[str | None, Field(examples=["penguins"])] = None
    """The model that answers; without it, the default model."""
    version: Annotated[str | None, Field(examples=["2"])] = None
    """Its version; without it, the one that requests get now. All rows of the job get the same."""
    priority: Literal["low", "normal", "high"] = "normal"
    """Chunks of more urgent jobs go first."""
    callback_url: Annotated[str | None, Field(examples=["https://example.com/shoal"])] = None
    """Where the end of the job is reported, with a signed POST (README, "Callbacks")."""


class JobPageParameters(Strict):
    state: Literal["queued", "running", "done", "failed", "cancelled"] | None = None
    """Only jobs in this state."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """Jobs on a page."""
    cursor: UUID | None = None
    """`next_cursor` of the page before."""


class ResultsParameters(Strict):
    format: Literal["ndjson", "csv"] = "ndjson"
    """How answers are written: a JSON object a line, or CSV with a head."""
    offset: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Index of the first row."""
    limit: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None
    """Rows on a page; without it, all."""
    partial: bool = False
    """Whether to give what there is of a job that has not ended."""


class JobProgress(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    id: UUID
    """A UUIDv7: it sorts by time."""
    state: Annotated[str, Field(examples=["running"])]
    """queued, running, done, failed (chunks of it were given up) or cancelled."""
    model: str
    """The model that answers."""
    version: str
    """Its version."""
    priority: str
    """low, normal or high."""
    created_at: datetime
    """When it was asked for; the timestamp of its predictions."""
    started_at: datetime | None
    """When the first rows were begun with."""
    finished_at: datetime | None
    """When it ended."""
    rows: int
    """Rows in it."""
    rows_done: int
    """Rows that are answered, or failed by themselves."""
    rows_failed: int
    """Of these, rows on which the model failed."""
    rows_per_second: float | None
    """Since it was started; null before the first."""
    eta_seconds: float | None
    """Until it is done, at that rate."""


class JobPage(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    jobs: list[JobProgress]
    """Newest first."""
    next_cursor: UUID | None
    """Pass it as `cursor` for the next page; null on the last one."""


class RowError(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    row: int
    """Index of the row in the job, from 0."""
    type: str
    """What kind of problem, as in the problems of /predict."""
    detail: str
    """The same for people."""


class DeadChunk(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    number: int
    """Its place among the chunks of the job, from 0."""
    first_row: int
    """Index of its first row."""
    rows: int
    """Rows in it."""
    attempts: int
    """How often a worker took it."""
    error: str
    """Why the last attempt failed."""


class CallbackDelivery(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    attempt: int
    """Counted from 1."""
    attempted_at: datetime
    """When it was made."""
    seconds: float
    """How long it took."""
    status: int | None
    """HTTP status of the answer; null where there was none."""
    error: str | None
    """Why it was not delivered; null where it was."""


class Callback(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    url: str
    """Where the end is reported."""
    state: str
    """waiting (for the end), due, delivered or given up."""
    deliveries: list[CallbackDelivery]
    """Every attempt."""


class JobDetails(JobProgress):
    attempts: int
    """How often workers took chunks of it; as often as it has chunks where nothing went wrong."""
    errors: list[RowError]
    """Rows on which the model failed, the first hundred."""
    dead_chunks: list[DeadChunk]
    """What was given up; `POST /jobs/{id}/requeue` tries it again."""
    callback: Callback | None
    """Its callback; null without one."""


class Health(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    status: Annotated[str, Field(examples=["ok"])]
    """ok; degraded: answers are given and kept, but something is away; unavailable: no prediction is possible."""
    version: str
    """Of the server."""
    components: dict[str, dict[str, Any]]
    """models, redis, postgres and spool, each with its status."""
