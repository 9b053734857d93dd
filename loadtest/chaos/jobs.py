"""What happens to jobs: their workers, their broker and Postgres killed, messages that come again and again."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from api.errors import JobsUnavailable
from api.job_worker.worker import make_broker
from api.jobs.brokers import BrokerAway
from api.jobs.job import Hint
from api.settings import Settings
from loadtest.chaos.amqp import Tap, tapped
from loadtest.chaos.ground import Ground, health, metric_of
from loadtest.chaos.job_ledger import Asking, longest_seconds, reckon, states, wait_until_all_ended
from loadtest.chaos.ledger import Ledger
from loadtest.chaos.oracle import Oracle
from loadtest.chaos.scenario import Effort, NotHere, Outcome, outcome
from tests.servers import BROKERS, BrokerServer, JobWorker, Nats, RabbitMq, eventually
from tests.stack import Stack

_REPLICAS = 3  # as the scenarios before, which leave their stack
_END_SECONDS = 180
_RECOVERY_SECONDS = 30
_SETTINGS = {
    "SHOAL_LOG_LEVEL": "WARNING",
    # What is lost with a worker or a broker is found within seconds, that it may be lost often.
    "SHOAL_JOB_LEASE_SECONDS": "3",
    "SHOAL_JOB_REDELIVER_SECONDS": "3",
}


class JobStage:
    """What a fault gets: the stack, two workers and their broker, and jobs that come all the while."""

    def __init__(
        self, stack: Stack, broker: BrokerServer, folder: Path, effort: Effort, tap: Tap | None = None
    ) -> None:
        """tap: through which the workers speak with RabbitMQ."""
        self.stack = stack
        self.broker = broker
        self.tap = tap
        self.effort = effort
        self.asking = Asking(stack.nginx.port, seed=time.time_ns())
        self.workers = [
            JobWorker(
                folder / f"worker-{number}",
                postgres_dsn=stack.postgres.dsn,
                redis_url=stack.redis.url,
                broker_url=f"amqp://guest:guest@127.0.0.1:{tap.port}/" if tap else broker.url,
                spool=stack.folder / "spool",
                **_SETTINGS,
            )
            for number in (1, 2)
        ]
        self.ended_at = 0.0
        self.made: dict[str, str] = {}

    def go_on(self, jobs: int) -> None:
        """Until so many more were asked for and taken."""
        goal = len(self.asking.jobs) + jobs
        eventually(lambda: len(self.asking.jobs) >= goal, within_seconds=120, because="jobs are taken in")

    def times(self, quick: int, whole: int) -> range:
        return range(quick if self.effort.quick else whole)

    def at_work(self, worker: JobWorker) -> None:
        """Until it has a chunk in hand, as it says itself."""
        eventually(lambda: health(worker.port)["running_chunks"], within_seconds=60, because="it has a chunk in hand")

    def needless(self) -> float:
        """Messages that were taken for nothing, as the workers say."""
        name = 'shoal_job_chunks_total{outcome="needless"}'
        return sum(metric_of(worker.port, name) for worker in self.workers)

    def is_at_work(self) -> bool:
        return any(health(worker.port)["running_chunks"] for worker in self.workers)

    def restart_broker(self) -> None:
        """In order, before it is killed. RabbitMQ 3.10.8, killed within seconds of making a quorum queue, may never
        give it a leader again: rabbitmq-server's issues 14779 and 15725 tell of the like, and README, "Runbook: job
        broker away"."""
        self.broker.stop()
        self.broker.start()

    def over(self) -> None:
        self.ended_at = time.time()


Fault = Callable[[JobStage], None]


def job_day(
    fault: Fault, *, jobs: int, broker: str = "rabbitmq", is_tapped: bool = False
) -> Callable[[Ground, Effort], Outcome]:
    """A scenario: jobs are asked for, at least so many (a tenth if quick), and in their midst a fault breaks something
    and mends it again.

    Args:
        broker: rabbitmq or nats, or redis, which is that of the cache.
        is_tapped: workers speak with it through `stage.tap`.
    """

    def run(ground: Ground, effort: Effort) -> Outcome:
        stack = ground.stack(_REPLICAS, {"SHOAL_LOG_LEVEL": "WARNING"})
        stack.postgres.execute("DELETE FROM jobs", "predictions")
        folder = ground.empty_folder()
        with ExitStack() as leave:
            its: BrokerServer = stack.redis if broker == "redis" else _started(broker, folder, leave)
            tap = leave.enter_context(tapped(its.port)) if is_tapped and isinstance(its, RabbitMq) else None
            stage = JobStage(stack, its, folder, effort, tap)
            for worker in stage.workers:
                worker.launch()
                leave.callback(worker.close)
            for worker in stage.workers:
                worker.wait_until_ready()
            with stage.asking.going_on():
                stage.go_on(2)
                fault(stage)
                least = jobs // 10 if effort.quick else jobs
                stage.go_on(max(2, least - len(stage.asking.jobs)))
            wait_until_all_ended(stack.nginx.port, _END_SECONDS)
            return _outcome(stage)

    return run


def _started(broker: str, folder: Path, leave: ExitStack) -> RabbitMq | Nats:
    server = BROKERS[broker](folder / broker)
    try:
        server.start()
    except AssertionError as error:
        if f"no {broker}-server" in str(error):
            raise NotHere(f"there is no {broker}-server here: apt-get install {broker}-server") from error
        raise
    leave.callback(server.close)
    return server


def _outcome(stage: JobStage) -> Outcome:
    stack, jobs = stage.stack, stage.asking.jobs
    reckoning = reckon(stack.nginx.port, stack.postgres.dsn, jobs, Oracle(Settings().model_repository).check)
    slowest, recovered = longest_seconds(stack.postgres.dsn, stage.ended_at or time.time())
    made = outcome(Ledger(), reckoning, recovered)
    made.worst_seconds = slowest
    made.figures = {
        "jobs": f"{len(jobs)}, of {reckoning.requests} rows, which are what is counted as requests",
        "worst answer": "the slowest job, from when it was asked for to its end",
        **stage.made,
    }
    made.must(states(stack.postgres.dsn) == {"done": len(jobs)}, f"jobs are {states(stack.postgres.dsn)}")
    made.must(recovered <= _RECOVERY_SECONDS, f"it took {recovered:.0f} s to recover, not {_RECOVERY_SECONDS}")
    return made


# --- faults -----------------------------------------------------------------------------------------------------------
def worker_killed(stage: JobStage) -> None:
    """In the midst of a chunk, one after the other."""
    for number in stage.times(2, 8):
        worker = stage.workers[number % 2]
        stage.at_work(worker)
        worker.kill()
        stage.over()
        worker.launch()
        if not stage.effort.quick:
            worker.wait_until_ready()


def worker_frozen(stage: JobStage) -> None:
    """For longer than its lease: when it goes on, others have answered what it has in hand."""
    for number in stage.times(1, 4):
        worker = stage.workers[number % 2]
        stage.at_work(worker)
        worker.pause()
        try:
            time.sleep(2 * float(_SETTINGS["SHOAL_JOB_LEASE_SECONDS"]))  # of its absence
        finally:
            worker.resume()
        stage.over()
        stage.go_on(2)


def broker_killed(stage: JobStage) -> None:
    """Before jobs are taken, while they run, and again as soon as it is back."""
    stage.restart_broker()
    for _ in stage.times(1, 3):
        stage.broker.kill()
        stage.go_on(3)  # jobs are taken while it is away
        stage.broker.start()
        stage.over()
        eventually(stage.is_at_work, within_seconds=60, because="a worker has a chunk in hand")
        stage.broker.kill()
        stage.broker.start()
        stage.over()
        stage.go_on(3)


def postgres_away(stage: JobStage) -> None:
    """Killed in the midst of chunks, and stopped for a while."""
    for _ in stage.times(1, 4):
        eventually(stage.is_at_work, within_seconds=60, because="a worker has a chunk in hand")
        stage.stack.postgres.kill()
        stage.stack.postgres.start()
        stage.over()
        stage.go_on(2)
    stage.stack.postgres.stop()
    time.sleep(1 if stage.effort.quick else 10)  # of its absence
    stage.stack.postgres.start()
    stage.over()


def delivered_twice(stage: JobStage) -> None:
    """Messages of chunks in every state, those that are settled too, again and again."""
    with _repeating(stage) as published:
        stage.go_on(5 if stage.effort.quick else 60)
        eventually(stage.needless, within_seconds=30, because="there are messages too many")
    stage.over()
    stage.made["messages too many"] = f"{published[0]}, of which {stage.needless():.0f} were taken for nothing by then"


def all_of_it(stage: JobStage) -> None:
    """Workers, broker and Postgres killed in turn, and messages that come again."""
    victims = itertools.cycle([*stage.workers, stage.broker, stage.stack.postgres])
    killed = 0
    with _repeating(stage) as published:
        while len(stage.asking.jobs) < (100 if stage.effort.quick else 1000):
            victim = next(victims)
            eventually(stage.is_at_work, within_seconds=60, because="a worker has a chunk in hand")
            victim.kill()
            victim.start()
            killed += 1
            stage.over()
            stage.go_on(15)
    stage.made["killed"] = f"{killed} times"
    stage.made["messages too many"] = f"{published[0]}"


@contextmanager
def _repeating(stage: JobStage) -> Iterator[list[int]]:
    """Publishes messages that were published already. Gives their number, in a list."""
    published = [0]
    stop = threading.Event()
    running = threading.Thread(target=lambda: asyncio.run(_repeat(stage, stop, published)))
    running.start()
    try:
        yield published
    finally:
        stop.set()
        running.join()


async def _repeat(stage: JobStage, stop: threading.Event, published: list[int]) -> None:
    broker = make_broker(Settings(broker_url=stage.broker.url))
    while not stop.is_set():
        try:
            async with broker.session() as session:
                while not stop.is_set():
                    hints = _some_hints(stage.stack.postgres.dsn)
                    await session.publish(hints * 2)
                    published[0] += 2 * len(hints)
                    await asyncio.sleep(0.2)
        except (BrokerAway, JobsUnavailable, psycopg.Error):
            await asyncio.sleep(0.2)  # killed by who else is at it


def _some_hints(dsn: str) -> list[Hint]:
    with psycopg.connect(dsn, connect_timeout=2) as connection:
        found = connection.execute(
            "SELECT job_id, number, priority FROM job_chunks WHERE state <> 'received' ORDER BY random() LIMIT 10"
        ).fetchall()
    return [Hint(*row) for row in found]
