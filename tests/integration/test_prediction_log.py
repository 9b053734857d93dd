"""The prediction log with Postgres there: durable before the answer, exactly once, nobody hurt by others."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.errors import LogUnavailable, Overloaded
from api.prediction_log import LogStatus, log
from api.prediction_log.link import Link
from api.prediction_log.migrations import load
from tests.conftest import Database
from tests.prediction_rows import id_in, logged, pack, poison, prediction_log, record, row, spooled
from tests.servers import eventually_async as eventually


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Production runs on uvloop; libpq's socket is watched by either."""
    return "asyncio", {"use_uvloop": request.param}


async def test_a_row_is_in_postgres_when_its_caller_hears_so(postgres: Database, tmp_path: Path) -> None:
    async with prediction_log(postgres.dsn, tmp_path) as log:
        assert log.status() == LogStatus(postgres_up=True, spool_writable=True, spool_rows=0)
        for rows in ([row()], [row(), row(), row()], [row() for _ in range(1500)]):
            await log.append(rows)

            assert {id_in(each) for each in rows} <= set(logged(postgres.dsn))

    assert spooled(tmp_path) == []


async def test_a_row_reads_back_as_it_was_logged(postgres: Database, tmp_path: Path) -> None:
    regression = record(
        unix_ms=1_769_817_600_123,
        model="väl",
        input_data=b"[[1.5,-2],[3e-7,0.1]]",
        prediction=b"[1.25,2]",
        label=None,
        confidence=None,
        cache="coalesced",
        request_id="a~b",
    )
    # Kept for ever: the row's day must not fall to the retention while the test looks at it.
    async with prediction_log(postgres.dsn, tmp_path, retention_days=36_500) as log:
        await log.append([row(), log_row := pack(regression)])

        assert id_in(log_row) == regression.id
        assert await log.queries.get(regression.id) == {
            "id": str(regression.id),
            "timestamp": "2026-01-31T00:00:00.123+00:00",
            "model": "väl",
            "version": "2",
            "input_data": [[1.5, -2], [3e-7, 0.1]],
            "prediction": [1.25, 2],
            "label": None,
            "confidence": None,
            "cache": "coalesced",
            "request_id": "a~b",
        }


async def test_callers_share_commits(postgres: Database, tmp_path: Path) -> None:
    async with prediction_log(postgres.dsn, tmp_path, gather_seconds=0.05) as log:
        before = commits(postgres.dsn)
        await asyncio.gather(*(log.append([row()]) for _ in range(100)))

        assert len(logged(postgres.dsn)) == 100
        assert 0 < commits(postgres.dsn) - before < 10


async def test_a_group_has_its_limit_but_a_caller_is_never_split(postgres: Database, tmp_path: Path) -> None:
    async with prediction_log(postgres.dsn, tmp_path, gather_seconds=0.05, max_group_rows=10) as log:
        before = commits(postgres.dsn)
        batches = [[row() for _ in range(4)] for _ in range(6)] + [[row() for _ in range(25)]]
        await asyncio.gather(*(log.append(rows) for rows in batches))

        assert len(logged(postgres.dsn)) == 49
        assert commits(postgres.dsn) - before >= 4  # three pairs, and the big one


async def test_who_comes_before_postgres_takes_rows_shares_the_commit(postgres: Database, tmp_path: Path) -> None:
    async with prediction_log(postgres.dsn, tmp_path, gather_seconds=0, commit_timeout_seconds=30) as log:
        with psycopg.connect(postgres.dsn) as other:
            other.execute("LOCK TABLE predictions IN SHARE MODE")
            early = log.append([row()])
            await eventually(lambda: is_waited_for(postgres.dsn))
            late = [log.append([row()]), log.append([row()])]
            late[0].cancel()  # whom nobody answers need not be logged, now as before
            assert not early.done()
        await asyncio.gather(early, late[1])

    assert len(logged(postgres.dsn)) == 2
    assert commits(postgres.dsn) == 1


async def test_a_row_larger_than_any_buffer_is_logged(postgres: Database, tmp_path: Path) -> None:
    image = b"[" + b",".join(b"0.123456" for _ in range(600_000)) + b"]"
    async with prediction_log(postgres.dsn, tmp_path) as log:
        big = row(input_data=image)
        await asyncio.gather(log.append([big]), log.append([row()]), log.append([big[:6] + id_bytes() + big[22:]]))

        found = await log.queries.get(id_in(big))
        assert found is not None
        assert len(found["input_data"]) == 600_000
        assert log.status().postgres_up
    assert len(logged(postgres.dsn)) == 3


async def test_an_empty_append_is_done(postgres: Database, tmp_path: Path) -> None:
    async with prediction_log(postgres.dsn, tmp_path) as log:
        await log.append([])


# --- once -----------------------------------------------------------------------------------------------------------
async def test_a_retry_makes_the_same_rows_and_no_more(postgres: Database, tmp_path: Path) -> None:
    rows = [row() for _ in range(5)]
    others = [row() for _ in range(20)]
    async with prediction_log(postgres.dsn, tmp_path) as log:
        await log.append(rows)
        await asyncio.gather(log.append(rows), *(log.append([each]) for each in others), log.append(rows[2:]))

        assert log.status().postgres_up
    assert logged(postgres.dsn) == Counter(id_in(each) for each in rows + others)
    assert spooled(tmp_path) == []


async def test_two_workers_log_the_same_rows_in_another_order(postgres: Database, tmp_path: Path) -> None:
    rows = [row() for _ in range(200)]
    async with prediction_log(postgres.dsn, tmp_path) as one, prediction_log(postgres.dsn, tmp_path) as other:
        for _ in range(5):
            rows += [row() for _ in range(200)]
            async with asyncio.timeout(10):
                await asyncio.gather(one.append(rows), other.append(rows[::-1]))

        await eventually(lambda: one.status().spool_rows == 0 and not spooled(tmp_path))
    assert logged(postgres.dsn) == Counter(id_in(each) for each in rows)


# --- neighbours -----------------------------------------------------------------------------------------------------
async def test_a_poisonous_row_fails_alone(
    postgres: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fine = [[row()] for _ in range(20)]
    mixed = [row(), poison(), row()]
    async with prediction_log(postgres.dsn, tmp_path, gather_seconds=0.02) as log:
        appends = [log.append(rows) for rows in (*fine[:7], [poison()], *fine[7:], mixed, [poison()])]
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*appends, return_exceptions=True)

        assert [type(each) for each in outcomes if each is not None] == [LogUnavailable] * 3
        assert [outcomes.index(each) for each in outcomes if each is not None] == [7, 21, 22]
        assert log.status() == LogStatus(postgres_up=True, spool_writable=True, spool_rows=0)
        await log.append([row()])
    ids = set(logged(postgres.dsn))
    assert {id_in(rows[0]) for rows in fine} < ids
    assert len(ids) == 21  # of the mixed request, nothing
    assert "\\u0000" not in caplog.text  # the row is not quoted


async def test_bytes_that_are_no_row_fail_alone(postgres: Database, tmp_path: Path) -> None:
    async with prediction_log(postgres.dsn, tmp_path, gather_seconds=0.02) as log:
        good, broken = log.append([row()]), log.append([row()[:-3]])

        await good
        with pytest.raises(LogUnavailable):
            await broken
    assert len(logged(postgres.dsn)) == 1


async def test_a_caller_that_leaves_hurts_nobody(postgres: Database, tmp_path: Path) -> None:
    rows = [row() for _ in range(9)]
    async with prediction_log(postgres.dsn, tmp_path, gather_seconds=0.02) as log:
        appends = [log.append([each]) for each in rows]
        for append in appends[::3]:
            append.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*appends, return_exceptions=True)

        assert [append.cancelled() for append in appends] == [True, False, False] * 3
    ids = set(logged(postgres.dsn))
    assert {id_in(rows[n]) for n in (1, 2, 4, 5, 7, 8)} == ids  # what nobody was answered was left out


async def test_more_than_may_wait_is_refused_at_once(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_MAX_WAITING_BYTES", 1000)
    async with prediction_log(postgres.dsn, tmp_path, gather_seconds=0.05) as small:
        waiting = [small.append([row()]) for _ in range(5)]
        with pytest.raises(Overloaded):
            small.append([row() for _ in range(5)])

        await asyncio.gather(*waiting)
        await small.append([row()])


async def test_closing_writes_what_waits_and_takes_no_more(postgres: Database, tmp_path: Path) -> None:
    async with prediction_log(postgres.dsn, tmp_path, gather_seconds=0.1) as log:
        appends = [log.append([row()]) for _ in range(50)]

    assert all(append.done() and append.exception() is None for append in appends)
    assert len(logged(postgres.dsn)) == 50
    with pytest.raises(LogUnavailable):
        log.append([row()])


# --- the connection -------------------------------------------------------------------------------------------------
async def test_a_connection_that_breaks_while_idle_is_replaced_before_anybody_needs_it(
    postgres: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with prediction_log(postgres.dsn, tmp_path) as log:
        await log.append([row()])
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await eventually(lambda: not log.status().postgres_up)
        await eventually(lambda: log.status().postgres_up)
        await log.append([row()])

    assert len(logged(postgres.dsn)) == 2
    assert spooled(tmp_path) == []
    assert [each.message for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_a_lock_on_the_table_costs_one_timeout_and_then_rows_are_spooled(
    postgres: Database, tmp_path: Path
) -> None:
    rows = [row()]
    async with prediction_log(postgres.dsn, tmp_path, commit_timeout_seconds=2) as log:
        with psycopg.connect(postgres.dsn) as other:
            other.execute("LOCK TABLE predictions IN SHARE MODE")
            await log.append(rows)
            assert not log.status().postgres_up
            # It answers all the while, but could not commit: so it does not count as back.
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                rows.append(row())
                async with asyncio.timeout(1.9):
                    await log.append(rows[-1:])
            assert set(spooled(tmp_path)) == {id_in(each) for each in rows}
        await eventually(lambda: log.status() == LogStatus(True, True, 0))
    assert logged(postgres.dsn) == Counter(id_in(each) for each in rows)


async def test_commits_wait_for_the_disk_also_where_the_server_would_not(postgres: Database, tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off")
    link = Link(connect_args={"conninfo": postgres.dsn}, commit_timeout_seconds=1, migrations=load(), retry_seconds=0.1)
    proved = await link._connect()  # what it says of itself, only it can be asked
    (setting,) = await (await proved.execute("SHOW synchronous_commit")).fetchone() or ("",)
    await proved.close()

    assert setting == "on"


async def test_a_log_that_is_opened_and_closed_at_once_ends(postgres: Database, tmp_path: Path) -> None:
    async with asyncio.timeout(20):
        for turns in range(60):
            async with prediction_log(postgres.dsn, tmp_path) as log:
                for _ in range(turns):
                    await asyncio.sleep(0)
                log.append([row()])
    assert len(logged(postgres.dsn)) == 60


# --- answered = logged ----------------------------------------------------------------------------------------------
append_plans = st.lists(
    st.tuples(
        st.integers(1, 4),  # rows of the caller
        st.sampled_from(["new", "new", "new", "retry", "poison", "leaves"]),
        st.booleans(),  # whether the loop turns before the next caller comes
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(append_plans)
def test_what_was_answered_is_logged_exactly_once_whatever_comes_in_whatever_order(
    postgres: Database, tmp_path: Path, plan: list[tuple[int, str, bool]]
) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE predictions")
    answered, left = asyncio.run(_follow(postgres.dsn, tmp_path, plan))

    rows = logged(postgres.dsn)
    assert set(rows.values()) <= {1}
    assert answered <= set(rows) <= answered | left


async def _follow(dsn: str, folder: Path, plan: list[tuple[int, str, bool]]) -> tuple[set[UUID], set[UUID]]:
    """The ids that callers were told are durable, and those of callers that left."""
    appends: list[tuple[list[bytes], asyncio.Future[None]]] = []
    left: set[UUID] = set()
    async with prediction_log(dsn, folder, max_group_rows=7) as log, asyncio.timeout(10):
        for count, what, turns in plan:
            rows = [row() for _ in range(count)]
            if what == "retry" and appends:
                rows = appends[len(appends) // 2][0]
            if what == "poison":
                rows[-1] = poison()
            append = log.append(rows)
            appends.append((rows, append))
            if turns:
                await asyncio.sleep(0)
            if what == "leaves" and append.cancel():
                left |= {id_in(each) for each in rows}
        await asyncio.gather(*(append for _, append in appends), return_exceptions=True)
    answered = {
        id_in(each)
        for rows, append in appends
        if not append.cancelled() and append.exception() is None
        for each in rows
    }
    return answered, left


def commits(dsn: str) -> int:
    """How many transactions put rows into the log."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT count(DISTINCT xmin::text) FROM predictions").fetchone()
    assert row is not None
    return int(row[0])


def is_waited_for(dsn: str) -> bool:
    """Whether a commit has begun, and waits for a lock."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'predictions'::regclass"
        ).fetchone()
    return found == (1,)


def id_bytes() -> bytes:
    return row()[6:22]
