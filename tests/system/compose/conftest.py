"""The compose stack, run for real on a Docker engine. It takes minutes and an engine, so it runs only when asked for by
its path: `pytest tests/system/compose`, which is `make test-compose`, and part of .ci/run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.by_path import is_left_out
from tests.system.compose.stack import Stack, make_secrets


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return is_left_out(Path(__file__).parent, config)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The development stack with three replicas, as `make up` starts it. The tests of a module are one story."""
    stack = Stack(f"shoal-test-{os.getpid()}")
    # `docker compose up --build --scale api=3`, in the background.
    with stack.up("docker compose up --build --scale api=3 --detach --wait"):
        yield stack


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The production stack with two replicas, passwords and a certificate of its own, which asks for API keys."""
    folder = tmp_path_factory.mktemp("production")
    make_secrets(folder)
    stack = Stack(
        f"shoal-test-prod-{os.getpid()}",
        "compose.yaml",
        "compose.prod.yaml",
        SECRETS_DIR=str(folder / "secrets"),
        TLS_DIR=str(folder / "secrets" / "tls"),
        KEYS_DIR=str(folder / "secrets" / "keys"),
        SHOAL_KEYS_FILE="/etc/shoal/keys/api_keys",
        API_CPUS="1",
    )
    with stack.up("docker compose up --build --scale api=2 --detach --wait"):
        yield stack
