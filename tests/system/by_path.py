"""Tests that need what not every machine has run only when they are asked for by their path."""

from __future__ import annotations

from pathlib import Path

import pytest


def is_left_out(folder: Path, config: pytest.Config) -> bool | None:
    """What `pytest_ignore_collect` of the folder's conftest.py returns: None where it was asked for, else True."""
    asked_for = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path == folder or folder in path.parents for path in asked_for) else True
