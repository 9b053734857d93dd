"""The stack that a module's tests share. Each leaves it as it found it: started, and whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import JobWorker
from tests.stack import Stack


@pytest.fixture(scope="module")
def stack(folders: Callable[[], Path]) -> Iterator[Stack]:
    stack = Stack(folders())
    try:
        stack.start()
        yield stack
    finally:
        stack.close()


@pytest.fixture(scope="module")
def job_worker(stack: Stack, folders: Callable[[], Path]) -> Iterator[JobWorker]:
    """A worker of jobs beside it."""
    folder = folders()
    worker = JobWorker(folder, postgres_dsn=stack.postgres.dsn, redis_url=stack.redis.url, spool=folder / "spool")
    try:
        worker.start()
        yield worker
    finally:
        worker.close()
