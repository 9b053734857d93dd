"""200 clients ask the same new question at once, over three replicas: how often does the model run?"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import httpx
import numpy as np
import pytest
import torch

from api.models.export import export, publish
from api.models.manifest import Manifest
from tests.stack import Stack

CLIENTS = 200
REPLICAS = 3


class Slow(torch.nn.Module):
    """The sum of a row, in a roundabout way."""

    weight: torch.Tensor

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(1024))
        self.rounds = rounds

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        wide = rows.sum(dim=1, keepdim=True).unsqueeze(2).expand(-1, 256, 1024)
        for _ in range(self.rounds):
            wide = wide @ self.weight
        return wide.mean(dim=(1, 2)).unsqueeze(1)


@pytest.fixture(scope="module")
def repository(folders: Callable[[], Path]) -> Path:
    """dear takes longer than SHOAL_CACHE_CLAIM_RUN_SECONDS for a row, and cheap does not."""
    root = folders()
    for name, rounds in (("dear", 12), ("cheap", 0)):
        manifest = Manifest.model_validate(
            {
                "name": name,
                "description": "The sum of a row.",
                "task": "regression",
                "input": {"name": "rows", "shape": [3]},
                "outputs": [{"name": "sum"}],
                "preprocessing": "None.",
                "default_version": "1",
                "data": {"name": "none", "licence": "none"},
                "example": [1, 2, 3],
            }
        )
        fields = {"description": "For a test.", "created": "2026-01-01", "training": "None.", "max_batch_rows": 2}
        module = Slow(rounds)
        publish(root, manifest, "1", export(module, np.ones(3, np.float32)), fields, original=module)
    return root


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def workers(request: pytest.FixtureRequest) -> int:
    """Of each replica."""
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def stack(folders: Callable[[], Path], repository: Path, workers: int) -> Iterator[Stack]:
    stack = Stack(
        folders(),
        replicas=REPLICAS,
        SHOAL_MODEL_REPOSITORY=str(repository),
        SHOAL_DEFAULT_MODEL="dear",
        SHOAL_REDIS_BUDGET_SECONDS="5",
        SHOAL_WORKERS=str(workers),
    )
    try:
        stack.start()
        yield stack
    finally:
        stack.close()


@pytest.mark.parametrize("model", ["dear", "cheap"])
async def test_equal_questions_at_once_run_the_model_as_seldom_as_promised(
    stack: Stack, model: str, workers: int
) -> None:
    """A dear model once in all, a cheap one once in each worker at most."""
    of_a_replica, of_all = (1, 1) if model == "dear" else (workers, REPLICAS * workers)
    before = [rows_run(replica.port, model) for replica in stack.replicas]
    row = [float(random.randrange(1000)) for _ in range(3)]
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{stack.nginx.port}", limits=limits, timeout=20) as client:
        asked = (client.post(f"/models/{model}/predict", json={"features": row}) for _ in range(CLIENTS))
        replies = await asyncio.gather(*asked)

    assert Counter(reply.status_code for reply in replies) == {200: CLIENTS}
    assert {reply.json()["prediction"] for reply in replies} == {sum(row)}
    runs = [rows_run(replica.port, model) - then for replica, then in zip(stack.replicas, before, strict=True)]
    assert 1 <= max(runs) <= of_a_replica, runs
    assert 1 <= sum(runs) <= of_all, runs
    tiers = Counter(reply.headers["X-Cache"] for reply in replies)
    assert tiers["miss"] == sum(runs), tiers


def rows_run(port: int, model: str) -> int:
    """Rows that the model of a replica was run on."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        found = re.findall(rf'^shoal_batch_rows_sum{{model="{model}",version="1"}} (.+)$', reply.read().decode(), re.M)
    return int(float(found[0])) if found else 0
