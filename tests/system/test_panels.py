"""The dashboard on a real Prometheus that scrapes a real stack under load: no panel is empty, no alert fires."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grafana.check_panels import EXPORTED, failures, main
from tests.load import Load
from tests.prometheus import Prometheus
from tests.servers import JobWorker, eventually, free_ports
from tests.stack import Stack

WITHOUT_CONTAINERS = list(EXPORTED)  # exporters come as containers only; tests/system/compose asks for their panels


@pytest.fixture(scope="module")
def prometheus(stack: Stack, job_worker: JobWorker, folders: Callable[[], Path]) -> Iterator[Prometheus]:
    [port] = free_ports()
    replicas = [replica.address for replica in stack.replicas]
    server = Prometheus(folders(), port=port, replicas=replicas, workers=[f"127.0.0.1:{job_worker.port}"])
    server.start()
    yield server
    server.close()


def test_every_panel_shows_something_under_load(stack: Stack, prometheus: Prometheus) -> None:
    def nothing_is_empty() -> bool:
        job = http.client.HTTPConnection("127.0.0.1", stack.nginx.port, timeout=20)
        job.request("POST", "/jobs", b"[39.1,18.7,181.0]", {"Content-Type": "application/x-ndjson"})
        assert job.getresponse().status == 202
        job.close()
        empty = failures(prometheus.url, without=WITHOUT_CONTAINERS)
        assert not empty, "\n".join(map(str, empty))
        return True

    with Load("127.0.0.1", stack.nginx.port, requests_per_second=60) as load:
        # A rate needs two scrapes, 5 s apart, and a recorded one its evaluation.
        eventually(nothing_is_empty, within_seconds=60)

    assert not load.report.failures
    assert main([prometheus.url, "--without", *WITHOUT_CONTAINERS]) == 0
    assert prometheus.query("job:up:count") == [({"__name__": "job:up:count"}, 2)]
    assert not prometheus.query('ALERTS{alertstate="firing"}')


def test_a_panel_without_data_is_named(prometheus: Prometheus, capsys: pytest.CaptureFixture[str]) -> None:
    """Here the exporters' panels, as nobody said that they are absent by design."""
    assert main([prometheus.url]) == 1
    assert "serving: Redis memory: no data\n    redis_memory_used_bytes" in capsys.readouterr().err


def test_a_prometheus_that_is_away_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    [port] = free_ports()

    assert main([f"http://127.0.0.1:{port}"]) == 2
    assert "does not answer" in capsys.readouterr().err
