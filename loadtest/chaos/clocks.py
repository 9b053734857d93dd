"""What happens to the clocks of the replicas; those of nginx and Postgres go on."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import psycopg

from loadtest.chaos.ground import Ground
from loadtest.chaos.scenario import expect
from loadtest.chaos.stage import Stage


def faked(ground: Ground) -> dict[str, str]:
    """The environment in which a file says how wrong the clock of the replicas is."""
    _file(ground.folder).write_text("0")
    return {
        "SHOAL_LOG_LEVEL": "WARNING",
        "PYTHONPATH": str(Path(__file__).with_name("clock")),
        "SHOAL_CHAOS_CLOCK": str(_file(ground.folder)),
    }


def _file(folder: Path) -> Path:
    return folder / "clock"


def _set(stage: Stage, seconds: float) -> None:
    file = _file(stage.stack.folder.parent)
    file.with_suffix(".new").write_text(f"{seconds:.0f}")
    file.with_suffix(".new").replace(file)


def back_one_minute(stage: Stage) -> None:
    _set(stage, -60)
    stage.go_on(0.4)
    stage.over()
    _set(stage, 0)


def new_month(stage: Stage) -> None:
    """The last seconds of this month, and the first of the next, whose days may have no partition yet."""
    now = datetime.datetime.now(datetime.UTC)
    begins = (now.replace(day=1) + datetime.timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0)
    _set(stage, begins.timestamp() - time.time() - 2)
    stage.wait(8, 4)
    stage.over()
    _set(stage, 0)
    with psycopg.connect(stage.stack.postgres.dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FILTER (WHERE timestamp < %(at)s AND timestamp > %(at)s - interval '1 minute'),"
            " count(*) FILTER (WHERE timestamp >= %(at)s) FROM predictions",
            {"at": begins},
        ).fetchone()
    stage.made["rows before and after midnight"] = f"{row}"
    expect(row is not None and all(row), f"the month did not end within the load: {row}")


def no_partition_for_tomorrow(stage: Stage) -> None:
    """Tomorrow comes, and nobody has made its partition; then somebody does."""
    tomorrow = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    with psycopg.connect(stage.stack.postgres.dsn, autocommit=True) as connection:
        connection.execute(f"DROP TABLE predictions_{tomorrow:%Y_%m_%d}".encode())
        _set(stage, 86_400)
        stage.go_on(0.05)
        # Soon: a replica whose upkeep failed as it started tries again after a minute, and would make it.
        [(homeless,)] = connection.execute("SELECT count(*) FROM predictions_default").fetchall()
        stage.made["rows without a partition, soon"] = f"{homeless}"
        stage.go_on(0.35)
        stage.over()
        _set(stage, 0)
        stage.go_on(0.05)
        for _ in range(20):  # it takes no lock that others wait behind, and so may have to come again
            try:
                connection.execute("SELECT ensure_prediction_partitions(7, 90)")
                break
            except psycopg.errors.LockNotAvailable:
                time.sleep(0.2)
        [(left,)] = connection.execute("SELECT count(*) FROM predictions_default").fetchall()
        expect(homeless and not left, f"of {homeless} rows without a partition {left} still have none")
