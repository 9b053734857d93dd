"""A worker ends when a run goes on for too long, and for nothing else."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from api.batching import Batcher
from api.hangs import HangWatch


class Running:
    """What the watch looks at of a batcher."""

    name = "some/1"

    def __init__(self, *seconds: float, runs_on_loop: bool) -> None:
        self.runs_on_loop = runs_on_loop
        self._looks = iter((*seconds, *seconds[-1:] * 3))
        self.looked_often = threading.Event()

    @property
    def run_seconds(self) -> float:
        seconds = next(self._looks, None)
        if seconds is None:
            self.looked_often.set()
            return 0.0
        return seconds


def ends(running: Running, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr("api.hangs._LOOK_SECONDS", 0.001)
    ended = threading.Event()
    batchers = cast("list[Batcher[Any]]", [running])
    with HangWatch(batchers, loop_seconds=5, thread_seconds=20, end=ended.set):
        assert running.looked_often.wait(10)
        return ended.is_set()  # what a look leads to is done before the next one


@pytest.mark.parametrize(
    ("seconds", "runs_on_loop", "expected"),
    [
        ((6.0,), True, True),
        ((6.0,), False, False),
        ((21.0,), False, True),
        ((4.0,), True, False),
        ((0.0, 12.0, 0.0), True, False),
    ],
    ids=["on the loop", "not as soon in the thread", "in the thread", "in time", "the worker itself was frozen"],
)
def test_a_worker_ends_when_a_run_hangs(
    seconds: tuple[float, ...], runs_on_loop: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ends(Running(*seconds, runs_on_loop=runs_on_loop), monkeypatch) is expected
