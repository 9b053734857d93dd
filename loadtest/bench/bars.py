"""What the ratios are held against."""

from __future__ import annotations

from loadtest.bench import growth
from loadtest.bench.experiments import LIMIT, ROWS_CONNECTIONS
from loadtest.bench.profile import Profile
from loadtest.bench.results import (
    Measure,
    Results,
    Spread,
    app_pss_bytes,
    cpu_seconds_per_request,
    p99_seconds,
    requests_per_second,
)
from loadtest.bench.verdict import Bar, Measured
from loadtest.bench.workloads import WORKLOADS, Case, Workload

CONNECTIONS = 64
MIN_ROUNDS = 5


def _against(
    other: str,
    measure: Measure,
    workload: Workload,
    *,
    experiment: str = "penguins",
    subject: str = "shoal",
    model: str = "penguins",
    connections: int = CONNECTIONS,
    rows: int = 0,
) -> Measured:
    """The subject's measure in parts of the other's."""
    case = Case(model, workload, connections, rows)
    return lambda results: results.ratio(
        measure, results.cell(experiment, subject, case), results.cell(experiment, other, case)
    )


def _image(other: str, rows: int) -> Measured:
    """Rows/s of the image model, all misses, in parts of another's. rows: in a request; 0 for a single one."""
    connections = ROWS_CONNECTIONS if rows else CONNECTIONS
    return _against(
        other, requests_per_second, "miss", experiment="limit", model="digits", connections=connections, rows=rows
    )


def _further_worker_mb(results: Results) -> Spread | None:
    """What three more workers add to the first, for each of them, at their greatest."""
    case = Case("penguins", "miss", CONNECTIONS)
    one, four = (results.cell("memory", name, case) for name in ("1-worker", "4-workers"))
    if one is None or four is None or not (one.rounds and four.rounds):
        return None
    less, more = (max(map(app_pss_bytes, cell.rounds)) for cell in (one, four))
    each = (more - less) / 3 / 1e6
    return Spread(each, each, each, len(four.rounds))


def _unexplained_percent(workload: Workload) -> Measured:
    """Of a request's time at nginx, what is in no stage."""

    def measured(results: Results) -> Spread | None:
        cell = results.cell("penguins", "shoal", Case("penguins", workload, CONNECTIONS))
        profiles = [Profile.of(each) for each in cell.counted] if cell else []
        return Spread.of([profile.rest_percent for profile in profiles if profile])

    return measured


def _rows_against_fewest(subject: str, workload: Workload) -> Measured:
    fewest = growth.of("rows", min(growth.ROWS))
    return _against(fewest, requests_per_second, workload, experiment="growth-rows", subject=subject)


_MOST = max(growth.ROWS)

BARS = (
    Bar("hit, requests/s against ceiling", _against("ceiling", requests_per_second, "hit"), at_least=1, stretch=1.3),
    Bar(
        "miss, requests/s against ceiling", _against("ceiling", requests_per_second, "miss"), at_least=0.6, stretch=0.8
    ),
    Bar("zipf, requests/s against tutorial", _against("tutorial", requests_per_second, "zipf"), at_least=5, stretch=8),
    Bar("hit, CPU per request against ceiling", _against("ceiling", cpu_seconds_per_request, "hit"), at_most=1),
    Bar("miss, CPU per request against ceiling", _against("ceiling", cpu_seconds_per_request, "miss"), at_most=1.5),
    Bar("zipf, p99 against ceiling", _against("ceiling", p99_seconds, "zipf"), at_most=1.5),
    *(
        Bar(f"{workload}, of a request's time in no stage", _unexplained_percent(workload), at_most=10, unit=" %")
        for workload in WORKLOADS
    ),
    *(
        Bar(f"image model, miss, {what}, {asked}", _image(other, rows), at_least=least)
        for other, what, least in (
            (LIMIT, "rows/s against the model by itself", 0.7),
            ("unbatched", "batched against not", 2),
        )
        for rows, asked in ((0, "single rows"), (64, "64 rows a request"))
    ),
    Bar("hit, with the log against without", _against("unlogged", requests_per_second, "hit", experiment="log"), 0.8),
    Bar("miss, with the log against without", _against("unlogged", requests_per_second, "miss", experiment="log"), 0.8),
    Bar(
        "miss, Redis stopped against running",
        _against("shoal", requests_per_second, "miss", experiment="redis", subject="without-redis"),
        at_least=0.95,
    ),
    Bar("memory of each further worker", _further_worker_mb, at_most=60, unit=" MB"),
    *(
        Bar(f"{workload}, requests/s with {about} against 1k", _rows_against_fewest(subject, workload), at_least=0.95)
        for subject, about in ((growth.of("rows", _MOST), "10M rows"), (growth.today(_MOST), "10M rows of one day"))
        for workload in WORKLOADS[:2]
    ),
)
