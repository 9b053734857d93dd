"""/metrics of a real replica with several workers: as one process would count, however often workers are replaced."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import Postgres, Redis, Replica, eventually

WORKERS = 2
STARTED = "Application startup complete"  # uvicorn's line of a worker that serves
ROW = {"features": [39.1, 18.7, 181.0]}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def replica(shared_postgres: Postgres, shared_redis: Redis, folders: Callable[[], Path]) -> Iterator[Replica]:
    """One for all tests here: each looks at what changed meanwhile."""
    shared_postgres.execute("CREATE DATABASE multiprocess")
    folder = folders()
    server = Replica(
        folder,
        postgres_dsn=shared_postgres.dsn_of("multiprocess"),
        redis_url=shared_redis.url,
        spool=folder / "spool",
        SHOAL_WORKERS=str(WORKERS),
    )
    server.start()
    yield server
    server.close()
    shared_postgres.execute("DROP DATABASE multiprocess WITH (FORCE)")


def request(replica: Replica, method: str, path: str, body: object = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=10)
    try:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200, text
        return text
    finally:
        connection.close()


def predict(replica: Replica, times: int) -> None:
    """Returns once they are counted too: a worker counts an answer after it has left."""
    before = answered(scrape(replica))
    for _ in range(times):
        request(replica, "POST", "/predict", ROW)
    eventually(lambda: answered(scrape(replica)) == before + times)


def scrape(replica: Replica) -> Samples:
    families = text_string_to_metric_families(request(replica, "GET", "/metrics").decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all series of that name that have these labels."""
    wanted = labels.items()
    found = [number for (series, have), number in samples.items() if series == name and wanted <= dict(have).items()]
    assert found, f"no {name} {labels}"
    return sum(found)


def answered(samples: Samples) -> float:
    """0 before the first answer, which makes the series."""
    labels = frozenset({("route", "/predict"), ("status", "200"), ("outcome", "ok")})
    return samples.get(("shoal_requests_total", labels), 0)


def workers(replica: Replica) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(replica.pid).children()
    return found


def files(replica: Replica) -> set[str]:
    return {path.name for path in (replica.folder / "metrics").rglob("*.db")}


def replace_workers(replica: Replica, number: signal.Signals, *victims: int) -> None:
    """Send the signal, and wait until as many others serve instead of the victims."""
    starts = replica.log.read_text().count(STARTED)
    for victim in victims:
        os.kill(victim, number)
    if not victims:
        victims = tuple(worker.pid for worker in workers(replica))
        os.kill(replica.pid, number)
    eventually(
        lambda: (
            replica.log.read_text().count(STARTED) == starts + len(victims)
            and len({worker.pid for worker in workers(replica)} - set(victims)) == len(workers(replica)) == WORKERS
        ),
        within_seconds=60,
        because="new workers serve, and the old are gone",
    )


def test_counters_do_not_go_back_and_files_do_not_pile_up_as_workers_are_replaced(replica: Replica) -> None:
    predict(replica, 40)
    before, files_before = scrape(replica), files(replica)

    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        replace_workers(replica, number, workers(replica)[0].pid)
        predict(replica, 4)
    predict(replica, 40)

    after = scrape(replica)
    assert files(replica) == files_before
    counted = {series: n for series, n in before.items() if series[0].endswith(("_total", "_bucket", "_count", "_sum"))}
    assert not [(series, n, after.get(series)) for series, n in counted.items() if after.get(series, -1) < n]
    assert answered(after) - answered(before) == 60
    for name in ("shoal_predictions_total", "shoal_prediction_seconds_count"):
        assert value(after, name, model="penguins") - value(before, name, model="penguins") == 60


def test_gauges_are_of_the_workers_that_live(replica: Replica) -> None:
    predict(replica, 20)
    for _ in range(2):
        replace_workers(replica, signal.SIGKILL, workers(replica)[0].pid)

    samples = scrape(replica)

    # The scrape itself is the one request in flight; what a killed worker held is gone with it.
    assert value(samples, "shoal_requests_in_flight") == 1
    # The gunicorn master counts nothing, so its zeroes must not be the minimum.
    assert value(samples, "shoal_log_postgres_up") == 1
    assert value(samples, "shoal_build_info") == 1
    assert value(samples, "shoal_model_info", model="penguins", version="2") == 1
    assert value(samples, "shoal_models_refused") == 0
    assert value(samples, "shoal_spool_rows") == 0


def test_what_never_went_wrong_yet_is_0_and_not_absent(replica: Replica) -> None:
    """A rate over a counter that appears with its first failure is silent about just that one."""
    samples = scrape(replica)

    assert value(samples, "shoal_log_failures_total", sink="spool") == 0
    assert value(samples, "shoal_log_rows_total", sink="spool") == 0
    assert value(samples, "shoal_spool_replayed_rows_total") == 0
    assert value(samples, "shoal_model_failures_total", model="penguins", version="2") == 0
    assert value(samples, "shoal_cache_lookups_total", tier="redis", result="corrupt") == 0
    assert value(samples, "shoal_cache_write_failures_total") == 0
    assert value(samples, "shoal_cache_breaker_open") == 0
    assert value(samples, "shoal_queued_rows", model="penguins", version="2") == 0


def test_a_reload_of_all_workers_loses_no_count_and_no_master(replica: Replica) -> None:
    predict(replica, 20)
    before = scrape(replica)

    for _ in range(2):
        replace_workers(replica, signal.SIGHUP)
        predict(replica, 20)

    assert answered(scrape(replica)) - answered(before) == 40
    # New workers start before the old have stopped: for a moment there are twice as many slots, and never more.
    assert len({name.rpartition("_")[2] for name in files(replica)}) <= 2 * WORKERS


def test_cpu_and_memory_are_of_all_processes_of_the_replica(replica: Replica) -> None:
    before = scrape(replica)
    replace_workers(replica, signal.SIGKILL, workers(replica)[0].pid)
    after = scrape(replica)

    assert value(before, "shoal_replica_cpu_seconds_total") <= value(after, "shoal_replica_cpu_seconds_total")
    assert 100 << 20 < value(after, "shoal_replica_memory_bytes") < value(after, "shoal_replica_memory_limit_bytes")


def test_a_restarted_replica_counts_from_nothing(replica: Replica) -> None:
    predict(replica, 20)
    replica.stop()
    replica.start()
    predict(replica, 1)

    assert answered(scrape(replica)) == 1
