"""Experiments in which something grows: what a row costs the model, what the stores hold, replicas, models.

Each takes its sizes from the command line, or those by which it is meant to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from loadtest.bench import fill
from loadtest.bench.experiments import ROWS_CONNECTIONS, Experiment
from loadtest.bench.subject import Subject
from loadtest.bench.workloads import WORKLOADS, Case

_HIT_AND_MISS = WORKLOADS[:2]
# So many rows are in flight that a round sees only a few come back if each is this dear; fewer then make a request.
_DEAR_MICROSECONDS = 5_000


def _cost_model(microseconds: int) -> str:
    return f"digits-{microseconds}us"


def _rows_in_request(microseconds: int) -> int:
    return 64 if microseconds < _DEAR_MICROSECONDS else 8


def of(what: str, count: int) -> str:
    """10M-rows: the name of a subject."""
    for unit, letter in ((10**6, "M"), (10**3, "k")):
        if count >= unit and count % unit == 0:
            return f"{count // unit}{letter}-{what}"
    return f"{count}-{what}"


def _cost(name: str, connections: int, sizes: Sequence[int]) -> Experiment:
    models = tuple(map(_cost_model, sizes))
    return Experiment(
        name,
        "`limit` with image models of about 100, 1000 and 10 000 us a row",
        [
            Subject("shoal", "everything on", models=models),
            Subject("unbatched", "runs every row by itself", models=models, env={"SHOAL_MAX_BATCH_ROWS": "1"}),
        ],
        [
            case
            for size in sizes
            for case in (
                Case(_cost_model(size), "miss", connections),
                Case(_cost_model(size), "miss", ROWS_CONNECTIONS, _rows_in_request(size)),
            )
        ],
        with_limit=True,
        by_default=False,
        more_seconds=30,
        sizes=sizes,
    )


def _rows(name: str, connections: int, sizes: Sequence[int]) -> Experiment:
    most = max(sizes)
    return Experiment(
        name,
        "1k, 1M and 10M rows in `predictions`, over 90 days; and 10M of today",
        [
            *(
                Subject(of("rows", size), "over 90 days", prepare=partial(fill.predictions, rows=size))
                for size in sizes
            ),
            Subject(today(most), "all of one day", prepare=partial(fill.predictions, rows=most, today=True)),
        ],
        [Case("penguins", workload, connections) for workload in _HIT_AND_MISS],
        by_default=False,
        more_seconds=most * 30e-6,
        sizes=sizes,
    )


def today(count: int) -> str:
    return of("rows", count) + "-today"


def _keys(name: str, connections: int, sizes: Sequence[int]) -> Experiment:
    most = partial(fill.answers, keys=max(sizes))
    return Experiment(
        name,
        "1k, 1M and 10M answers in Redis; Redis full; Redis while it saves 10M",
        [
            *(Subject(of("keys", size), "no limit", prepare=partial(fill.answers, keys=size)) for size in sizes),
            Subject("full", "no more than db/redis.conf allows", prepare=partial(most, unlimited=False)),
            Subject("saving", "begins to save with each round", prepare=most, before_round=fill.save),
        ],
        [Case("penguins", workload, connections) for workload in ("miss", "zipf")],
        by_default=False,
        more_seconds=max(sizes) * 20e-6,
        sizes=sizes,
    )


def _replicas(name: str, connections: int, sizes: Sequence[int]) -> Experiment:
    return Experiment(
        name,
        "1 to 6 replicas of one worker each, which share the cores",
        [Subject(of("replicas", size), "of one worker", replicas=size, env={"SHOAL_WORKERS": "1"}) for size in sizes],
        [Case("penguins", workload, connections) for workload in WORKLOADS],
        by_default=False,
        sizes=sizes,
    )


def _models(name: str, connections: int, sizes: Sequence[int]) -> Experiment:
    def copies(count: int) -> tuple[str, ...]:
        return tuple(f"penguins-{number}" for number in range(1, count + 1))

    return Experiment(
        name,
        "1 to 50 models that are loaded: one of them asked, and all in turn",
        [Subject(of("models", size), "of 3 features each", models=copies(size)) for size in sizes],
        [
            *(Case("penguins-1", workload, connections) for workload in _HIT_AND_MISS),
            Case("penguins-1", "miss", connections, everyone=True),
        ],
        by_default=False,
        more_seconds=sum(sizes),
        sizes=sizes,
    )


Maker = Callable[[str, int, Sequence[int]], Experiment]
ROWS = (1_000, 1_000_000, 10_000_000)
MAKERS: dict[str, tuple[Maker, Sequence[int]]] = {
    "cost": (_cost, (100, 1_000, 10_000)),
    "growth-rows": (_rows, ROWS),
    "growth-keys": (_keys, ROWS),
    "growth-replicas": (_replicas, (1, 2, 3, 4, 6)),
    "growth-models": (_models, (1, 10, 50)),
}


def experiments(connections: int, sizes: Mapping[str, Sequence[int]]) -> list[Experiment]:
    """sizes: by the experiment's name, where they are not its own."""
    return [make(name, connections, sizes.get(name, usual)) for name, (make, usual) in MAKERS.items()]
