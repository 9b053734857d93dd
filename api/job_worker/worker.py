"""A worker put together: read it top to bottom to know what it is made of."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from api import __version__, lifespan
from api.job_worker.priority import give_way
from api.job_worker.status import status_pages
from api.job_worker.upkeep import Upkeep
from api.jobs.answering import Answerer
from api.jobs.brokers import Broker, open_broker
from api.jobs.chunks import Chunks
from api.jobs.consumer import Consumer
from api.jobs.database import Database
from api.jobs.pace import Pace
from api.jobs.relay import Relay
from api.lifespan import Programs
from api.models.repository import Repository
from api.prediction_log.link import end
from api.replica import Replica
from api.settings import Settings

logger = logging.getLogger(__name__)

# Beyond any SHOAL_JOB_MAX_ATTEMPTS: a chunk is given up in Postgres first, where the reason can be seen. Not reckoned
# from it, as a queue of RabbitMQ keeps the limit that it was made with, and refuses who asks for another one.
_MOST_DELIVERIES = 102
_WAITING_FOR_EACH_LANE = 8  # chunks in the broker, beyond those in hand


def make_broker(settings: Settings) -> Broker:
    url, password = settings.broker_url, settings.broker_password
    if url is None:
        url, password = settings.redis_url, settings.redis_password
    return open_broker(
        url,
        password=password.get_secret_value() if password else None,
        prefetch=settings.job_prefetch,
        max_deliveries=_MOST_DELIVERIES,
        idle_seconds=settings.job_lease_seconds,
    )


async def work(settings: Settings, repository: Repository, programs: Programs, stop: asyncio.Event) -> None:
    """Answers jobs until `stop` is set, and then those chunks that it has in hand."""
    password = settings.postgres_password.get_secret_value() if settings.postgres_password else None
    database = Database(dsn=settings.postgres_dsn, password=password, pool_size=settings.job_lanes + 2)
    chunks = Chunks(
        database, lease_seconds=settings.job_lease_seconds, redeliver_seconds=settings.job_redeliver_seconds
    )
    pace = Pace(share=settings.job_share, predictions_come=chunks.predictions_come)
    relay = Relay(chunks, most_out=settings.job_lanes * _WAITING_FOR_EACH_LANE)
    broker = make_broker(settings)
    async with AsyncExitStack() as stack:
        # The cache, the models and the log, which also brings the schema up to date. Nobody knocks here with a key.
        without_keys = settings.model_copy(update={"keys_file": None})
        state = await stack.enter_async_context(lifespan.open_replica(without_keys, repository, programs))
        replica = state["replica"]
        await database.open()
        stack.push_async_callback(database.close)
        consumer = Consumer(
            broker,
            chunks,
            Answerer(replica.predictor, replica.resolve, pace),
            relay,
            pace,
            lanes=settings.job_lanes,
            retry_seconds=settings.job_retry_seconds,
        )
        upkeep = Upkeep(
            chunks,
            consumer,
            relay,
            lease_seconds=settings.job_lease_seconds,
            retention_days=settings.log_retention_days,
        )
        for name, run in (("listen", relay.listen(settings.postgres_dsn, password)), ("upkeep", upkeep.run())):
            stack.push_async_callback(end, asyncio.create_task(run, name=f"jobs: {name}"))
        await stack.enter_async_context(status_pages(settings.bind, lambda: _state(replica, consumer)))
        _look_for_garbage_less_often()
        give_way(settings.job_nice)
        logger.info("ready for jobs")
        await _run(consumer, stop, drain_seconds=settings.drain_seconds)


async def _run(consumer: Consumer, stop: asyncio.Event, *, drain_seconds: float) -> None:
    running = asyncio.create_task(consumer.run(), name="jobs: consumer")
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    consumer.stop()
    _, late = await asyncio.wait({running}, timeout=drain_seconds)
    if late:
        logger.warning("what is in hand is given back, as it takes longer than the drain")
        running.cancel()
    await asyncio.gather(running, return_exceptions=bool(late))


def _look_for_garbage_less_often() -> None:
    """As replicas do, see gunicorn.conf.py: what was loaded stays, and rows come and go by the thousand."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _state(replica: Replica, consumer: Consumer) -> Mapping[str, Any]:
    components: dict[str, dict[str, Any]] = {
        "models": {"status": "up" if replica.served else "down", "served": len(replica.served)},
        "postgres": {"status": "up" if replica.log.status().postgres_up else "down"},
        "broker": {"status": "up" if consumer.session else "down"},
    }
    is_well = all(component["status"] == "up" for component in components.values())
    return {
        "status": "ok" if is_well else "unavailable",
        "version": __version__,
        "running_chunks": len(consumer.running),
        "components": components,
    }
