"""A replica with a model that crashes who runs it: the worker is replaced, the model left alone, others serve."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from loadtest.chaos import models
from tests.servers import Replica, eventually


@pytest.fixture
def replica(folders: Callable[[], Path]) -> Iterator[Replica]:
    folder = folders()
    folder.mkdir(parents=True)
    root = models.repository(folder, crashes=models.Crashes())
    replica = Replica(
        folder / "replica",
        postgres_dsn=f"host={folder} dbname=nowhere",  # the spool will do
        redis_url=f"unix://{folder}/nowhere",
        spool=folder / "spool",
        SHOAL_MODEL_REPOSITORY=str(root),
    )
    replica.start()
    yield replica
    replica.close()


def ask(replica: Replica, method: str, path: str, row: list[float] | None = None) -> tuple[int, Any]:
    """Status and body; -1 if it hung up."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=30)
    try:
        body = None if row is None else json.dumps({"features": row})
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read().decode()
        return reply.status, json.loads(text) if text.startswith("{") else text
    except (OSError, http.client.HTTPException):
        return -1, None
    finally:
        connection.close()


def test_a_model_that_kills_workers_is_left_alone_and_shown_as_such(replica: Replica) -> None:
    harmless, harmful = [39.1, 18.7, 181.0], [-39.1, 18.7, 181.0]
    [first] = psutil.Process(replica.pid).children()
    assert ask(replica, "POST", "/models/crashes/predict", harmless)[0] == 200
    for _ in range(3):
        # A worker that has just been forked takes no requests yet, and its predecessor's connections are refused.
        eventually(lambda: ask(replica, "GET", "/health/ready")[0] == 200, within_seconds=30)
        assert ask(replica, "POST", "/models/crashes/predict", harmful)[0] == -1

    eventually(lambda: ask(replica, "GET", "/health/ready")[0] == 200, within_seconds=30)
    status, problem = ask(replica, "POST", "/models/crashes/predict", harmful)
    assert (status, problem["type"]) == (503, "urn:shoal:problem:model-quarantined")
    assert ask(replica, "POST", "/predict", harmless)[0] == 200
    quarantined = {
        model["name"]: [version["quarantined"] for version in model["versions"]]
        for model in ask(replica, "GET", "/models")[1]["models"]
    }
    assert quarantined.pop("crashes") == [True]
    assert not any(map(any, quarantined.values()))
    line = 'shoal_model_quarantined{model="crashes",version="1"} 1.0'
    eventually(lambda: line in ask(replica, "GET", "/metrics")[1])
    assert first.pid not in {child.pid for child in psutil.Process(replica.pid).children()}
