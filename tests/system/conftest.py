"""The stack that a module's tests share. Each leaves it as it found it: started, and whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stack import Stack


@pytest.fixture(scope="module")
def stack(folders: Callable[[], Path]) -> Iterator[Stack]:
    stack = Stack(folders())
    try:
        stack.start()
        yield stack
    finally:
        stack.close()
