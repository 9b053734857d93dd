"""Jobs go as fast as they can, and with pauses while somebody asks for single predictions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import REGISTRY

from api.errors import JobsUnavailable
from api.jobs import pace
from api.jobs.pace import Pace

ROWS = range(1000)


@pytest.fixture(autouse=True)
def _each_look_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_LOOK_SECONDS", 0)


def pauses() -> float:
    return REGISTRY.get_sample_value("shoal_job_pause_seconds_total") or 0


def told(*answers: bool | Exception) -> Callable[[], Awaitable[bool]]:
    """Whether predictions come: one answer after the other, the last for ever."""
    left = list(answers)

    async def predictions_come() -> bool:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return predictions_come


async def cut(its: Pace, most: int = 400) -> list[list[int]]:
    return [list(some) async for some in its.pieces(ROWS, most)]


async def test_without_predictions_there_are_no_pauses_and_pieces_are_large() -> None:
    its = Pace(share=0.1, predictions_come=told(False))
    assert list(map(len, await cut(its))) == [400, 400, 200]
    before = pauses()
    async with its.piece(), its.piece():  # not one at a time
        pass
    assert pauses() == before


async def test_while_predictions_come_pieces_are_small_one_at_a_time_and_followed_by_pauses() -> None:
    its = Pace(share=0.1, predictions_come=told(True))
    pieces = await cut(its)
    assert [row for piece in pieces for row in piece] == list(ROWS)
    assert set(map(len, pieces[:-1])) == {128}

    at_work = 0
    worked = 0.0
    before, begun = pauses(), time.monotonic()

    async def work() -> None:
        nonlocal at_work, worked
        async with its.piece():
            at_work += 1
            assert at_work == 1
            started = time.monotonic()
            await asyncio.sleep(0.001)
            worked += time.monotonic() - started
            at_work -= 1

    await asyncio.gather(*(work() for _ in range(5)))
    rested = pauses() - before
    assert rested > min(9 * worked, 0.05) * 0.9
    assert time.monotonic() - begun > worked + rested * 0.9


async def test_a_pause_after_what_took_long_is_short() -> None:
    its = Pace(share=0.1, predictions_come=told(True))
    await cut(its)
    before = pauses()
    async with its.piece():
        await asyncio.sleep(0.1)
    assert pauses() - before == pytest.approx(0.05)


async def test_a_great_many_rows_of_one_transaction_are_not_cut_into_more_than_some_pieces() -> None:
    its = Pace(share=0.1, predictions_come=told(True))
    pieces = [some async for some in its.pieces(range(65_536), 65_536)]
    assert len(pieces) == 32


async def test_it_changes_as_predictions_come_and_go_and_stays_as_it_is_where_nobody_knows() -> None:
    its = Pace(share=0.1, predictions_come=told(False, True, JobsUnavailable("away"), False))
    assert list(map(len, await cut(its))) == [400, 128, 128, 344]


async def test_with_the_whole_share_it_does_not_even_look() -> None:
    assert len(await cut(Pace(share=1, predictions_come=told(AssertionError("it was asked"))))) == 3
