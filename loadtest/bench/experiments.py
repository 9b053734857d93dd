"""Which subjects meet under which load. Subjects of an experiment run at the same time and are loaded in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.bench.stack import Subject
from loadtest.bench.workloads import Case

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


@dataclass(frozen=True, slots=True)
class Experiment:
    name: str
    about: str
    subjects: Sequence[Subject]
    cases: Sequence[Case] = field(default_factory=tuple)


def experiments(connections: int) -> list[Experiment]:
    """In the order in which they run."""
    return [
        Experiment(
            "penguins",
            "the 3-feature model against what frames it",
            [SHOAL, CEILING, TUTORIAL, PROXY],
            [Case("penguins", workload, connections) for workload in ("hit", "miss", "zipf")],
        ),
    ]
