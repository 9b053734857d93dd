"""The prediction log while Postgres is stopped, killed, frozen or not there yet: every answer stays, exactly once."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from api.errors import LogUnavailable, QueryUnavailable
from api.prediction_log import LogStatus, PredictionLog
from tests.prediction_rows import id_in, logged, poison, prediction_log, row, spooled
from tests.servers import Postgres
from tests.servers import eventually_async as eventually

_processes = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


class Callers:
    """Append a row each, again and again, and keep what they were told."""

    def __init__(self, log: PredictionLog) -> None:
        self.log = log
        self.answered: list[UUID] = []
        self.refused: list[Exception] = []
        self.slowest_seconds = 0.0
        self.stopping = False

    async def call(self) -> None:
        while not self.stopping:
            mine = row()
            begun = time.monotonic()
            try:
                await self.log.append([mine])
            except LogUnavailable as error:
                self.refused.append(error)
            else:
                self.answered.append(id_in(mine))
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)

    async def answer_more(self, count: int) -> None:
        """Returns when so many more were answered."""
        enough = len(self.answered) + count
        await eventually(lambda: len(self.answered) >= enough, within_seconds=20)


@asynccontextmanager
async def callers(log: PredictionLog, count: int = 8) -> AsyncIterator[Callers]:
    group = Callers(log)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(group.call())
        try:
            yield group
        finally:
            group.stopping = True


async def replayed(log: PredictionLog) -> None:
    await eventually(lambda: log.status() == LogStatus(True, True, 0), within_seconds=30)


async def test_an_outage_refuses_nobody_and_loses_nothing(
    postgres_server: Callable[[], Postgres], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = postgres_server()
    async with prediction_log(server.dsn, tmp_path) as log, callers(log) as group:
        await group.answer_more(200)
        await asyncio.to_thread(server.stop)
        await group.answer_more(500)
        assert not log.status().postgres_up
        assert log.status().spool_rows > 0
        await asyncio.to_thread(server.start)
        await eventually(lambda: log.status().postgres_up)
        await group.answer_more(200)
        group.stopping = True
        await replayed(log)

    assert group.refused == []
    assert logged(server.dsn) == Counter(group.answered)
    assert spooled(tmp_path) == []
    assert [each.message for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_a_server_killed_during_commits_leaves_each_answer_there_once(
    postgres_server: Callable[[], Postgres], tmp_path: Path
) -> None:
    server = postgres_server()
    async with prediction_log(server.dsn, tmp_path) as log, callers(log, 16) as group:
        for _ in range(3):
            await eventually(lambda: log.status().postgres_up, within_seconds=20)
            await group.answer_more(100)
            await asyncio.to_thread(server.kill)
            await group.answer_more(50)
            await asyncio.to_thread(server.start)
        group.stopping = True
        await replayed(log)

    assert group.refused == []
    assert logged(server.dsn) == Counter(group.answered)


async def test_a_frozen_server_costs_one_timeout_and_no_more(
    postgres_server: Callable[[], Postgres], tmp_path: Path
) -> None:
    server = postgres_server()
    async with prediction_log(server.dsn, tmp_path, commit_timeout_seconds=0.5) as log:
        await log.append([row()])
        server.pause()
        rows = [row() for _ in range(50)]
        begun = time.monotonic()
        await asyncio.gather(*(log.append([each]) for each in rows))
        first_seconds = time.monotonic() - begun

        begun = time.monotonic()
        for _ in range(20):
            rows.append(row())
            await log.append(rows[-1:])
        others_seconds = time.monotonic() - begun
        with pytest.raises(QueryUnavailable):
            async with asyncio.timeout(2):
                await log.queries.page()

        server.resume()
        await replayed(log)

    assert 0.5 <= first_seconds < 5
    assert others_seconds < 8  # 20 commits to a disk, and not 20 timeouts, which are 10 s
    # What was sent to the frozen server was committed when it woke up, and replayed besides: once.
    assert set(logged(server.dsn).values()) == {1}
    assert {id_in(each) for each in rows} < set(logged(server.dsn))


async def test_a_query_to_a_server_that_froze_unnoticed_ends(
    postgres_server: Callable[[], Postgres], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.prediction_log.queries._QUERY_SECONDS", 0.2)
    server = postgres_server()
    async with prediction_log(server.dsn, tmp_path) as log:
        await log.queries.page()
        server.pause()
        with pytest.raises(QueryUnavailable):
            async with asyncio.timeout(5):
                await log.queries.page()
        server.resume()
        await eventually(lambda: _answers(log))


async def _answers(log: PredictionLog) -> bool:
    await log.queries.page()
    return True


async def test_a_log_opens_without_postgres_and_catches_up_when_it_comes(
    postgres_server: Callable[[], Postgres], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = postgres_server()
    await asyncio.to_thread(server.stop)
    rows = [row() for _ in range(300)]
    begun = time.monotonic()
    async with prediction_log(server.dsn, tmp_path) as log:
        assert time.monotonic() - begun < 4  # as long as it waits for a server that may answer yet
        assert log.status() == LogStatus(False, True, 0)
        await asyncio.gather(*(log.append([each]) for each in rows))
        assert log.status() == LogStatus(False, True, 300)
        with pytest.raises(QueryUnavailable):
            await log.queries.get(id_in(rows[0]))

        await asyncio.to_thread(server.start)
        await replayed(log)

        found = await log.queries.get(id_in(rows[0]))
        assert found is not None
    assert logged(server.dsn) == Counter(id_in(each) for each in rows)
    away = [each for each in caplog.records if "Postgres is away" in each.message]
    assert 1 <= len(away) <= 3  # once for each way in which it was not there, and not at each attempt


async def test_a_log_closed_during_an_outage_leaves_its_rows_to_the_next(
    postgres_server: Callable[[], Postgres], tmp_path: Path
) -> None:
    server = postgres_server()
    await asyncio.to_thread(server.stop)
    rows = [row() for _ in range(50)]
    async with asyncio.timeout(10):
        async with prediction_log(server.dsn, tmp_path) as log:
            appends = [log.append([each]) for each in rows]
    assert all(append.done() and append.exception() is None for append in appends)

    await asyncio.to_thread(server.start)
    async with prediction_log(server.dsn, tmp_path) as log:
        await replayed(log)
    assert logged(server.dsn) == Counter(id_in(each) for each in rows)


async def test_a_retry_that_meets_the_spooled_row_is_the_same_row(
    postgres_server: Callable[[], Postgres], tmp_path: Path
) -> None:
    server = postgres_server()
    both, first_only = row(), row()
    async with prediction_log(server.dsn, tmp_path) as log:
        await log.append([both])
        await asyncio.to_thread(server.stop)
        await log.append([both, first_only])
        await log.append([first_only])
        await asyncio.to_thread(server.start)
        await eventually(lambda: log.status().postgres_up)
        await log.append([first_only])
        await replayed(log)
    assert logged(server.dsn) == Counter([id_in(both), id_in(first_only)])


async def test_processes_that_share_a_spool_replay_it_once(
    postgres_server: Callable[[], Postgres], tmp_path: Path
) -> None:
    server = postgres_server()
    await asyncio.to_thread(server.stop)
    reader, writer = _processes.Pipe(duplex=False)
    processes = [
        _processes.Process(target=_log_through_an_outage, args=(server.dsn, tmp_path, writer)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    answered = [id for _ in processes for id in await asyncio.to_thread(reader.recv)]
    assert len(answered) == len(spooled(tmp_path)) == 3 * 1500

    await asyncio.to_thread(server.start)
    for process in processes:
        await asyncio.to_thread(process.join, 60)

    assert [process.exitcode for process in processes] == [0] * 3
    assert logged(server.dsn) == Counter(answered)
    assert spooled(tmp_path) == []


def _log_through_an_outage(dsn: str, folder: Path, answered_to: object) -> None:
    async def run() -> None:
        rows = [row() for _ in range(1500)]
        async with prediction_log(dsn, folder) as log:
            await asyncio.gather(*(log.append([each]) for each in rows))
            answered_to.send([id_in(each) for each in rows])  # type: ignore[attr-defined]
            await eventually(lambda: log.status() == LogStatus(True, True, 0), within_seconds=50)

    asyncio.run(run())


async def test_live_rows_do_not_wait_for_a_long_replay(postgres_server: Callable[[], Postgres], tmp_path: Path) -> None:
    server = postgres_server()
    await asyncio.to_thread(server.stop)
    old = [row() for _ in range(20_000)]
    async with prediction_log(server.dsn, tmp_path) as log:
        await log.append(old)
        await asyncio.to_thread(server.start)
        await eventually(lambda: log.status().postgres_up)
        begun = time.monotonic()
        async with callers(log, 2) as group:
            await replayed(log)
        assert len(group.answered) > 20
        assert group.slowest_seconds < max(1, (time.monotonic() - begun) / 2)
    assert logged(server.dsn) == Counter([*map(id_in, old), *group.answered])


async def test_a_spooled_row_that_postgres_refuses_is_put_aside_and_the_others_pass(
    postgres_server: Callable[[], Postgres], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = postgres_server()
    await asyncio.to_thread(server.stop)
    rows = [row() for _ in range(40)]
    bad = [poison(), poison()]
    async with prediction_log(server.dsn, tmp_path) as log:
        await log.append([*rows[:10], bad[0], *rows[10:], bad[1]])
        await asyncio.to_thread(server.start)
        await replayed(log)

    assert logged(server.dsn) == Counter(id_in(each) for each in rows)
    aside = [each.message for each in caplog.records if each.levelno == logging.CRITICAL]
    assert len(aside) == 2
    assert all(any(id_in(each).hex in message for message in aside) for each in bad)


# --- without a spool --------------------------------------------------------------------------------------------------
async def test_without_a_spool_postgres_alone_will_do(postgres_server: Callable[[], Postgres], tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.write_text("a file, not a directory")
    server = postgres_server()
    async with prediction_log(server.dsn, folder) as log:
        assert log.status() == LogStatus(postgres_up=True, spool_writable=False, spool_rows=0)
        await log.append([row()])
        await asyncio.to_thread(server.stop)
        lost = row()
        with pytest.raises(LogUnavailable):
            async with asyncio.timeout(5):
                await log.append([lost])

        folder.unlink()
        await eventually(lambda: log.status().spool_writable)
        await log.append([row()])
        await asyncio.to_thread(server.start)
        await replayed(log)
    assert len(logged(server.dsn)) == 2
    assert id_in(lost) not in logged(server.dsn)


async def test_rows_for_a_table_that_is_gone_wait_in_the_spool_until_it_is_back(
    postgres_server: Callable[[], Postgres], tmp_path: Path
) -> None:
    server = postgres_server()
    async with prediction_log(server.dsn, tmp_path) as log:
        await log.append([row()])
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("ALTER TABLE predictions RENAME TO elsewhere")
            await log.append([row()])
            assert not log.status().postgres_up
            connection.execute("ALTER TABLE elsewhere RENAME TO predictions")
        await replayed(log)
    assert len(logged(server.dsn)) == 2
