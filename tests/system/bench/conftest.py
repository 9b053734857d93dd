"""The benchmark, run for real for a second a round. It needs wrk, so it runs only when asked for by its path:
`pytest tests/system/bench`, which is `make test-bench`, and part of .ci/run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.by_path import is_left_out


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return is_left_out(Path(__file__).parent, config)
