"""Which subjects meet under which load. Subjects of an experiment run at the same time and are loaded in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.bench.subject import Subject
from loadtest.bench.workloads import WORKLOADS, Case

SHOAL = Subject("shoal", "everything on: nginx, 2 workers, cache, durable log, metrics, a log line for each request")
CEILING = Subject(
    "ceiling",
    "a FastAPI route with a pydantic body that returns a constant, in the same gunicorn",
    app="loadtest.bench.subjects.ceiling:app",
    stores=False,
)
TUTORIAL = Subject(
    "tutorial",
    "FastAPI, a synchronous Redis client, one psycopg connection a worker, INSERT and commit for each request",
    app="loadtest.bench.subjects.tutorial:create_app()",
)
PROXY = Subject("proxy", "nginx with the same configuration answers a constant by itself", app="", stores=False)
LIMIT = "model only"
# With 512 rows from each, all of them in one worker are still no more than it lets wait (SHOAL_MAX_QUEUED_ROWS, 4096).
ROWS_CONNECTIONS = 8

UNBATCHED = Subject("unbatched", "shoal that runs every row by itself", env={"SHOAL_MAX_BATCH_ROWS": "1"})
UNLOGGED = Subject(
    "unlogged",
    "shoal without its prediction log",
    app="loadtest.bench.subjects.unlogged:create_app()",
    is_replica=True,
    logs=False,
)
WITHOUT_REDIS = Subject("without-redis", "shoal with Redis stopped", stopped=("redis",))
# Of 10 000 rows each remembers 2 000, so that it matters whose rows these are.
_FORGETFUL = {"SHOAL_WORKERS": "1", "SHOAL_CACHE_LOCAL_ROWS": "2000"}
BY_CONNECTIONS = Subject("least_conn", "the one with the fewest requests", replicas=3, env=_FORGETFUL)
BY_BODY = Subject("hash", "the same one for equal bodies", replicas=3, env=_FORGETFUL | {"NGINX_BALANCE": "hash"})
CLAIMING = Subject("claiming", "claims each row in Redis before it runs it", env={"SHOAL_CACHE_CLAIM_RUN_SECONDS": "0"})
ONE_WORKER = Subject("1-worker", "shoal with 1 worker", env={"SHOAL_WORKERS": "1"})
FOUR_WORKERS = Subject("4-workers", "shoal with 4 workers", env={"SHOAL_WORKERS": "4"})


@dataclass(frozen=True, slots=True)
class Experiment:
    """with_limit: each case beside the model-only limit of its model. by_default: whether it runs when none is named.
    more_seconds: what it takes besides starting and measuring. sizes: of what it varies, if they can be chosen."""

    name: str
    about: str
    subjects: Sequence[Subject]
    cases: Sequence[Case]
    with_limit: bool = False
    by_default: bool = True
    more_seconds: float = 0
    sizes: Sequence[int] = ()


def experiments(connections: int) -> list[Experiment]:
    """In the order in which they run."""
    return [
        Experiment(
            "penguins",
            "the 3-feature model against what frames it",
            [SHOAL, CEILING, TUTORIAL, PROXY],
            [Case("penguins", workload, connections) for workload in WORKLOADS],
        ),
        Experiment(
            "digits",
            "the image model against the same",
            [SHOAL, CEILING, TUTORIAL, PROXY],
            [Case("digits", workload, connections) for workload in WORKLOADS],
        ),
        Experiment(
            "limit",
            "the image model, all misses, batched and not, against the model by itself; then its first, cheap version",
            [SHOAL, UNBATCHED],
            [
                Case("digits", "miss", connections),
                Case("digits", "miss", ROWS_CONNECTIONS, 64),
                Case("digits/1", "miss", connections),
                Case("digits/1", "miss", ROWS_CONNECTIONS, 64),
                Case("digits/1", "miss", ROWS_CONNECTIONS, 512),
            ],
            with_limit=True,
        ),
        Experiment(
            "log",
            "what the durable log costs",
            [SHOAL, UNLOGGED],
            [Case("penguins", workload, connections) for workload in WORKLOADS[:2]],
        ),
        Experiment(
            "redis", "what a broken Redis costs", [SHOAL, WITHOUT_REDIS], [Case("penguins", "miss", connections)]
        ),
        Experiment(
            "memory", "what a further worker costs", [ONE_WORKER, FOUR_WORKERS], [Case("penguins", "miss", connections)]
        ),
        Experiment(
            "balance",
            "which of three replicas gets a request: NGINX_BALANCE",
            [BY_CONNECTIONS, BY_BODY],
            [Case("penguins", workload, connections) for workload in WORKLOADS],
            by_default=False,
        ),
        Experiment(
            "claims",
            "what it costs that no other replica runs the same row: SHOAL_CACHE_CLAIM_RUN_SECONDS",
            [SHOAL, CLAIMING],
            [Case("penguins", "miss", connections), Case("digits", "miss", connections)],
            by_default=False,
        ),
        Experiment(
            "rows",
            "rows/s where the cost of HTTP is shared",
            [SHOAL],
            [
                Case("penguins", workload, ROWS_CONNECTIONS, rows)
                for workload in WORKLOADS[:2]
                for rows in (1, 8, 64, 512)
            ],
        ),
        Experiment(
            "connections",
            "both models with fewer and more connections",
            [SHOAL, CEILING, TUTORIAL],
            [
                Case(model, workload, many)
                for model in ("penguins", "digits")
                for many in (16, 256)
                for workload in WORKLOADS
            ],
            by_default=False,
        ),
    ]
