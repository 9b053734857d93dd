"""RabbitMQ is killed at each stage that a chunk goes through. None is met by luck: a step of its message is kept from
its way, or Postgres or the workers are held, until RabbitMQ is gone."""

from __future__ import annotations

from uuid import UUID

import psycopg

from loadtest.chaos.amqp import Step, Tap
from loadtest.chaos.ground import metric_of
from loadtest.chaos.jobs import JobStage
from loadtest.chaos.scenario import expect
from loadtest.jobs.client import ask
from tests.servers import eventually

_REACHED_SECONDS = 60


def broker_killed_at_each(stage: JobStage) -> None:
    """The stages in their order, jobs coming all the while."""
    stage.restart_broker()
    tap = stage.tap
    assert tap is not None  # noqa: S101  its scenario is a tapped one
    _on_its_way(stage, tap, Step.PUBLISH, "ready")  # accepted, not published
    _on_its_way(stage, tap, Step.CONFIRM, "ready", Step.DELIVER)  # published, which nobody but RabbitMQ knows
    _on_its_way(stage, tap, Step.DELIVER, "published")
    _delivered_and_not_taken(stage, tap)
    _running(stage, tap)
    _on_its_way(stage, tap, Step.ACKNOWLEDGE, "done")  # its rows are committed, which RabbitMQ does not know
    _given_up(stage, tap)
    _given_up(stage, tap, has_arrived=True)
    stage.made["killed"] = "8 times"


def _on_its_way(stage: JobStage, tap: Tap, step: Step, state: str, *others: Step) -> None:
    """state: of a chunk more, by then, than there were before."""
    before = _chunks(stage, state) if state == "done" else 0  # the others are left again
    tap.keep(step, *others)
    eventually(
        lambda: tap.has_kept(step) and _chunks(stage, state) > before,
        within_seconds=_REACHED_SECONDS,
        because=f"{step.name} of a chunk that is {state} is on its way",
    )
    _kill_and_mend(stage, tap)


def _delivered_and_not_taken(stage: JobStage, tap: Tap) -> None:
    tap.keep(Step.DELIVER)
    eventually(
        lambda: tap.has_kept(Step.DELIVER) and _chunks(stage, "published"),
        within_seconds=_REACHED_SECONDS,
        because="a chunk is on its way to a worker",
    )
    with psycopg.connect(stage.stack.postgres.dsn) as connection:
        connection.execute("SELECT FROM job_chunks WHERE state = 'published' FOR UPDATE")
        tap.pass_on()
        eventually(lambda: _takers(stage), within_seconds=_REACHED_SECONDS, because="a worker is about to take it")
        stage.broker.kill()
    _mend(stage, tap)


def _running(stage: JobStage, tap: Tap) -> None:
    def is_held() -> bool:
        """Both workers are, one of them with a chunk in hand."""
        eventually(stage.is_at_work, within_seconds=_REACHED_SECONDS, because="a worker has a chunk in hand")
        for worker in stage.workers:
            worker.pause()
        if _chunks(stage, "running"):
            return True
        for worker in stage.workers:
            worker.resume()
        return False

    eventually(is_held, within_seconds=_REACHED_SECONDS)
    try:
        stage.broker.kill()
    finally:
        for worker in stage.workers:
            worker.resume()
    _mend(stage, tap)


def _given_up(stage: JobStage, tap: Tap, *, has_arrived: bool = False) -> None:
    """A chunk that nobody can answer is rejected. has_arrived: RabbitMQ has been told, just before it is killed."""
    tap.keep(Step.REJECT)
    spoilt = eventually(lambda: _spoil(stage), within_seconds=_REACHED_SECONDS, because="a chunk waits to be spoilt")
    assert spoilt is not None  # noqa: S101  mypy does not see it
    job, number, whole = spoilt
    eventually(
        lambda: tap.has_kept(Step.REJECT) and _chunks(stage, "dead"),
        within_seconds=_REACHED_SECONDS,
        because="a chunk is given up, and rejected",
    )
    if has_arrived:
        tap.pass_on()
    _kill_and_mend(stage, tap)
    eventually(lambda: _dead_letters(stage) == {1}, within_seconds=_REACHED_SECONDS, because="it is a dead letter")
    with psycopg.connect(stage.stack.postgres.dsn) as connection:
        connection.execute("UPDATE job_chunks SET input = %b WHERE job_id = %s AND number = %s", (whole, job, number))
    status, answer = ask(stage.stack.nginx.port, "POST", f"/jobs/{job}/requeue")
    expect(status == 200, f"the job could not be requeued: {status}, {answer!r}")
    eventually(lambda: _dead_letters(stage) == {0}, within_seconds=_REACHED_SECONDS, because="its letter is gone")


def _kill_and_mend(stage: JobStage, tap: Tap) -> None:
    stage.broker.kill()
    _mend(stage, tap)


def _mend(stage: JobStage, tap: Tap) -> None:
    tap.keep()
    stage.broker.start()
    stage.over()
    eventually(stage.is_at_work, within_seconds=_REACHED_SECONDS, because="a worker has a chunk in hand again")


def _chunks(stage: JobStage, state: str) -> int:
    """How many are in that state."""
    return _ask(stage, "SELECT count(*) FROM job_chunks WHERE state = %s", state)


def _takers(stage: JobStage) -> int:
    """Workers that wait for Postgres to let them take a chunk."""
    return _ask(
        stage,
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s",
        "UPDATE job_chunks AS c SET state = 'running'%",
    )


def _ask(stage: JobStage, query: str, parameter: str) -> int:
    with psycopg.connect(stage.stack.postgres.dsn) as connection:
        [count] = connection.execute(query.encode(), (parameter,)).fetchone() or (0,)
        return int(count)


def _spoil(stage: JobStage) -> tuple[UUID, int, bytes] | None:
    """Spoils a chunk that nobody has taken yet, which gets one attempt: its job, its number, and what was there."""
    with psycopg.connect(stage.stack.postgres.dsn) as connection:
        found: tuple[UUID, int, bytes] | None = connection.execute(
            "SELECT job_id, number, input FROM job_chunks WHERE state IN ('ready', 'published')"
            " LIMIT 1 FOR UPDATE SKIP LOCKED"
        ).fetchone()
        if found is not None:
            connection.execute(
                "UPDATE job_chunks SET input = 'broken', attempts_left = 1 WHERE job_id = %s AND number = %s", found[:2]
            )
        return found


def _dead_letters(stage: JobStage) -> set[float]:
    """How many there are, as each worker says."""
    return {metric_of(worker.port, "shoal_job_dead_letters") for worker in stage.workers}
