"""The spool's file, by itself: what it took it keeps, whoever writes beside it and whatever breaks."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import resource
import sqlite3
from pathlib import Path
from threading import Thread

import pytest

from api.prediction_log.record import id_of
from api.prediction_log.spool_file import SpoolFile, SpoolUnavailable
from tests.prediction_rows import row

_processes = multiprocessing.get_context("spawn")


def rows_in(spool: SpoolFile) -> list[bytes]:
    return [each.row for each in spool.oldest(max_rows=10_000, max_bytes=2**30)]


def test_rows_come_back_oldest_first_until_they_are_removed(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path / "made" / "when needed")
    rows = [row(unix_ms=1_700_000_000_000 + n) for n in range(10)]

    assert spool.add(rows[5:]) == 5
    assert spool.add(rows[:5]) == 10

    first = spool.oldest(max_rows=3, max_bytes=2**30)
    assert [each.row for each in first] == rows[:3]
    assert spool.remove([each.id for each in first]) == 7
    assert rows_in(spool) == rows[3:]
    spool.close()


def test_a_chunk_ends_at_its_bytes_but_is_never_empty(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path)
    rows = [row(unix_ms=1_700_000_000_000 + n) for n in range(3)]
    spool.add(rows)

    assert len(spool.oldest(max_rows=10, max_bytes=1)) == 1
    assert len(spool.oldest(max_rows=10, max_bytes=len(rows[0]) + 1)) == 2
    spool.close()


def test_a_row_that_comes_twice_is_one_row(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path)
    twice = row()

    spool.add([twice, twice])
    assert spool.add([twice, row()]) == spool.count() == 2
    spool.close()


def test_a_row_put_aside_is_kept_and_in_nobodys_way(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path)
    bad, good = row(), row()
    spool.add([bad, good])

    assert spool.put_aside(id_of(bad), "not liked") == 1

    assert rows_in(spool) == [good]
    with sqlite3.connect(spool.path) as connection:
        assert connection.execute("SELECT row, reason FROM refused").fetchall() == [(bad, "not liked")]
    connection.close()
    spool.close()


def test_what_was_spooled_survives_its_process(tmp_path: Path) -> None:
    process = _processes.Process(target=_add_and_die, args=(tmp_path,))
    process.start()
    process.join(30)
    assert process.exitcode == 7

    spool = SpoolFile(tmp_path)
    assert spool.count() == len(rows_in(spool)) == 3
    spool.close()


def _add_and_die(folder: Path) -> None:
    import os

    SpoolFile(folder).add([row(), row(), row()])
    os._exit(7)


def test_processes_write_to_one_spool_without_losing_or_refusing_any_row(tmp_path: Path) -> None:
    processes = [_processes.Process(target=_add_many, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4

    spool = SpoolFile(tmp_path)
    assert spool.count() == len(rows_in(spool)) == 4 * 50 * 2
    spool.close()


def _add_many(folder: Path) -> None:
    spool = SpoolFile(folder)
    for _ in range(50):
        spool.add([row(), row()])
    spool.close()


def test_two_begin_the_file_at_once(tmp_path: Path) -> None:
    spools = [SpoolFile(tmp_path) for _ in range(8)]
    threads = [Thread(target=spool.add, args=([row()],)) for spool in spools]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert spools[0].count() == 8
    for spool in spools:
        spool.close()


@pytest.mark.parametrize("content", [b"this is no database" * 500, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_corrupt_file_is_put_aside_and_a_new_one_begun(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    spool = SpoolFile(tmp_path)
    spool.path.write_bytes(content)

    rows = [row(unix_ms=1), row(unix_ms=2)]
    assert spool.add(rows) == 2

    assert rows_in(spool) == rows
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
    (aside,) = tmp_path.glob("spool.sqlite3.corrupt-*")
    assert aside.read_bytes() == content
    spool.close()


def test_nobody_goes_on_writing_to_a_file_that_was_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    finder, other = SpoolFile(tmp_path), SpoolFile(tmp_path)
    finder.add([row()])
    other.add([row()])
    for path in (finder.path, Path(f"{finder.path}-wal")):
        path.write_bytes(b"\xff" * 20_000)
    finder_row, other_row = row(unix_ms=1), row(unix_ms=2)

    finder.add([finder_row])
    other.add([other_row])

    assert rows_in(finder) == rows_in(other) == [finder_row, other_row]
    assert len(list(tmp_path.glob("spool.sqlite3.corrupt-*[0-9]"))) == 1
    assert len(caplog.records) == 1
    finder.close()
    other.close()


def test_an_add_waits_for_whoever_puts_the_file_away_and_goes_into_the_new_one(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path)
    spool.add([row()])
    with (tmp_path / "spool.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        adding = Thread(target=spool.add, args=([row()],))
        adding.start()
        adding.join(0.2)
        assert adding.is_alive()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{spool.path}{suffix}").rename(tmp_path / f"away{suffix}")
    adding.join(10)

    with sqlite3.connect(tmp_path / "away") as away:
        assert away.execute("SELECT count(*) FROM spooled").fetchone() == (1,)
    away.close()
    assert spool.count() == 1
    spool.close()


def test_a_directory_that_vanished_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spool = SpoolFile(folder)
    spool.add([row()])
    folder.rename(tmp_path / "elsewhere")

    assert spool.add([row()]) == 1
    spool.close()


def test_a_file_in_place_of_the_directory_makes_it_unavailable_until_it_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.write_text("in the way")
    spool = SpoolFile(folder)
    for use in (spool.count, spool.check, lambda: spool.add([row()])):
        with pytest.raises(SpoolUnavailable, match="spool"):
            use()

    folder.unlink()

    assert spool.add([row()]) == 1
    spool.close()


def test_a_full_disk_refuses_whole_adds_and_harms_none_of_the_others(tmp_path: Path) -> None:
    reader, writer = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_fill, args=(tmp_path, writer))
    process.start()
    assert reader.poll(60)
    taken = reader.recv()
    process.join(10)

    assert 0 < taken < 10_000
    spool = SpoolFile(tmp_path)
    assert spool.count() == len(rows_in(spool)) == 2 * taken
    spool.close()


def _fill(folder: Path, taken_to: object) -> None:
    """Adds rows until a write fails. A limit on the size of files fails writes just as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    spool = SpoolFile(folder)
    taken = 0
    try:
        for _ in range(10_000):
            spool.add([row(), row()])
            taken += 1
    except SpoolUnavailable:
        pass
    taken_to.send(taken)  # type: ignore[attr-defined]


def test_space_comes_back_after_a_long_outage(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path)
    spool.add([row() for _ in range(5000)])
    spool.close()
    size = spool.path.stat().st_size

    while rows := spool.oldest(max_rows=1000, max_bytes=2**30):
        spool.remove([each.id for each in rows])
        spool.shrink()
    spool.close()

    assert spool.path.stat().st_size < size / 10
