"""A short `make fuzz`, always with the same seeds: once to a replica, once through nginx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.system.fuzz.run import Fuzzed


def test_generated_requests_find_nothing_that_the_description_does_not_say(folders: Callable[[], Path]) -> None:
    fuzzed = Fuzzed(folders())
    try:
        fuzzed.start()
        before = fuzzed.usage()

        for each in fuzzed.rounds(cases=800, seed=1):
            assert each.passed, each.output

        assert fuzzed.troubles(before) == []
    finally:
        fuzzed.stack.close()
