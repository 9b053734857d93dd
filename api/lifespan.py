"""Opens what routes need, in each worker after its fork, and closes it in reverse."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypedDict

import msgspec

from api import __version__, metrics
from api.access.gate import Gate
from api.answers import Answer, Classification, Regression
from api.batching import Batcher
from api.cache.address import Address
from api.cache.breaker import Breaker
from api.cache.epochs import Epochs
from api.cache.keys import KeySpace
from api.cache.local import LocalCache
from api.cache.shared import SharedCache
from api.circuits import Circuit, Circuits, Lane
from api.errors import ModelFailed
from api.flights import Served
from api.hangs import HangWatch
from api.in_flight import InFlight
from api.jobs.callbacks import CallbackPolicy
from api.jobs.database import Database
from api.jobs.intake import Limits
from api.jobs.jobs import Jobs
from api.models import runtime
from api.models.repository import ModelVersion, Repository
from api.models.runtime import Program
from api.prediction_log import PredictionLog, pack_model
from api.prediction_log.link import end
from api.predictor import Predictor
from api.replica import Replica
from api.rows import RowDecoder
from api.settings import Settings
from api.tallies import CounterTally, HistogramTally

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 0.25  # how late metrics, lines, deadlines and keys may be
_LEAST_LEASE_SECONDS = 1
# Sixty times what the greatest batch takes of a model that is cheap enough for the event loop. Soon, as nginx gives a
# request three tries in 9 s, and who waits in this worker may meet the one that hangs it in the next worker, too.
_LOOP_HANG_SECONDS = 2

Programs = Mapping[tuple[str, str], Program]


class State(TypedDict):
    replica: Replica


@asynccontextmanager
async def open_replica(
    settings: Settings, repository: Repository, programs: Programs, circuits: Circuits | None = None
) -> AsyncIterator[State]:
    """The state of one worker. Needs neither Postgres nor Redis to be there: it starts degraded and recovers.

    circuits: of all workers; None: this one is the only one.
    """
    circuits = circuits or Circuits(list(repository.versions))
    metrics.BUILD_INFO.labels(__version__).set(1)
    threads = runtime.use_threads(settings.threads, settings.workers)
    logger.info("each model run uses %d threads", threads)
    async with AsyncExitStack() as stack:
        # Opened first, so closed last: everything below still writes to the log while it drains.
        log = await stack.enter_async_context(_prediction_log(settings))
        cache = _shared_cache(settings)
        stack.push_async_callback(cache.close)
        local: LocalCache[Answer] = LocalCache(settings.cache_local_rows)
        predictor = Predictor(local=local, shared=cache, log=log)
        served = await stack.enter_async_context(_models(settings, repository, programs, predictor, circuits))
        # After the log, which brings the schema up to date; before anything is served.
        epochs = await stack.enter_async_context(_epochs(settings, served, local))
        jobs = await stack.enter_async_context(_jobs(settings))
        replica = Replica(
            repository=repository,
            served=served,
            predictor=predictor,
            shared=cache,
            epochs=epochs,
            log=log,
            jobs=jobs,
            in_flight=InFlight(
                deadline_seconds=settings.deadline_seconds, max_requests=settings.max_requests_in_flight
            ),
            gate=Gate(keys_file=settings.keys_file, admin_token_file=settings.admin_token_file),
            default_model=settings.default_model,
            max_body_bytes=settings.max_body_bytes,
        )
        if not replica.serves_default:
            logger.error("not ready: the default model, %s, is not served", settings.default_model)
        stack.callback(replica.report)
        stack.enter_context(
            HangWatch(
                [each.batcher for each in served.values()],
                loop_seconds=_LOOP_HANG_SECONDS,
                thread_seconds=settings.deadline_seconds * 2,
            )
        )
        housekeeping = asyncio.create_task(_keep_house(replica), name="housekeeping")
        stack.push_async_callback(end, housekeeping)
        yield State(replica=replica)


async def _keep_house(replica: Replica) -> None:
    while True:
        await asyncio.sleep(_REPORT_SECONDS)
        try:
            replica.in_flight.expire()
            replica.gate.refresh()
            replica.report()
        except Exception:  # whatever it was: without deadlines a request could hang
            logger.exception("housekeeping failed, and goes on")


def _prediction_log(settings: Settings) -> PredictionLog:
    password = settings.postgres_password
    return PredictionLog(
        dsn=settings.postgres_dsn,
        password=password.get_secret_value() if password else None,
        pool_size=settings.postgres_pool_size,
        spool_dir=settings.spool_dir,
        gather_seconds=settings.log_gather_seconds,
        max_group_rows=settings.log_max_group_rows,
        commit_timeout_seconds=settings.log_commit_timeout_seconds,
        retention_days=settings.log_retention_days,
    )


def _jobs(settings: Settings) -> Jobs:
    password = settings.postgres_password
    return Jobs(
        Database(
            dsn=settings.postgres_dsn,
            password=password.get_secret_value() if password else None,
            pool_size=settings.job_pool_size,
        ),
        limits=Limits(
            rows=settings.job_max_rows,
            body_bytes=settings.job_max_body_bytes,
            chunk_rows=settings.job_chunk_rows,
        ),
        max_attempts=settings.job_max_attempts,
        callbacks=CallbackPolicy(
            can_sign=settings.callback_secret is not None,
            to_private_addresses=settings.callback_to_private_addresses,
        ),
    )


def _epochs(settings: Settings, served: Mapping[tuple[str, str], Served], local: LocalCache[Answer]) -> Epochs:
    password = settings.postgres_password
    return Epochs(
        dsn=settings.postgres_dsn,
        password=password.get_secret_value() if password else None,
        keys={key: each.keys for key, each in served.items()},
        local=local,
    )


def _shared_cache(settings: Settings) -> SharedCache:
    password = settings.redis_password
    return SharedCache(
        Address.parse(settings.redis_url, password=password.get_secret_value() if password else None),
        ttl_seconds=settings.cache_ttl_seconds,
        budget_seconds=settings.redis_budget_seconds,
        breaker=Breaker(max_failures=settings.redis_breaker_failures, open_seconds=settings.redis_breaker_seconds),
    )


@asynccontextmanager
async def _models(
    settings: Settings,
    repository: Repository,
    programs: Programs,
    predictor: Predictor,
    circuits: Circuits,
) -> AsyncIterator[Mapping[tuple[str, str], Served]]:
    """Those that can answer, warm."""
    slot = int(os.environ.get(metrics.SLOT) or 0)
    served: dict[tuple[str, str], Served] = {}
    async with AsyncExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="model"))
        for key, version in list(repository.versions.items()):
            try:
                circuit = circuits.of(key, slot)
                made = served[key] = await _serve(settings, version, programs[key], predictor, executor, circuit)
                stack.push_async_callback(made.batcher.close)
            except ModelFailed as error:
                # It loads and cannot answer its own example. The others serve.
                repository.refuse(version, str(error))
                logger.error("refused %s/%s: %s", version.name, version.version, error)
        metrics.MODELS_REFUSED.set(len(repository.refusals))
        yield served


async def _serve(
    settings: Settings,
    version: ModelVersion,
    program: Program,
    predictor: Predictor,
    executor: Executor,
    circuit: Circuit,
) -> Served:
    """Warms the program up, which also tells where it belongs: on the event loop, or in the executor's thread."""
    manifest = version.manifest
    most = min(version.version_manifest.max_batch_rows or settings.max_batch_rows, settings.max_batch_rows)
    if circuit.dies_in_warm_up:
        raise ModelFailed("workers died as they tried it out")
    circuit.begin(Lane.WARM_UP)
    try:
        row_seconds = await asyncio.get_running_loop().run_in_executor(executor, program.warm_up, most)
    finally:
        circuit.end(Lane.WARM_UP)
    inline = row_seconds < settings.inline_run_seconds
    logger.info(
        "%s/%s is warm: %.6f s a row, run %s",
        version.name,
        version.version,
        row_seconds,
        "inline" if inline else "in a thread",
    )
    metrics.MODEL_INFO.labels(version.name, version.version, version.digest[:12], manifest.task).set(1)
    return Served(
        model=version.name,
        version=version.version,
        members=msgspec.json.encode({"model": version.name, "version": version.version})[1:-1],
        packed=pack_model(version.name, version.version),
        keys=KeySpace(version.name, version.version, version.digest),
        decoder=RowDecoder(version.input_shape, max_rows=settings.max_rows_per_request),
        reader=Classification(manifest.classes) if manifest.classes else Regression(),
        output_width=version.output_width,
        lease_seconds=_lease_seconds(settings, row_seconds),
        batcher=Batcher(
            program,
            on_run=predictor.computed,
            model=version.name,
            version=version.version,
            max_batch_rows=most,
            max_queued_rows=settings.max_queued_rows,
            # Half: what is known of a run is an estimate, and a row that waited in vain costs as much as an answer.
            max_wait_seconds=settings.deadline_seconds / 2,
            executor=None if inline else executor,
            circuit=circuit,
        ),
        counts={
            cache: CounterTally(metrics.PREDICTIONS.labels(version.name, version.version, cache))
            for cache in ("local", "redis", "coalesced", "miss")
        },
        seconds=HistogramTally(metrics.PREDICTION_SECONDS.labels(version.name, version.version)),
        queued_rows=metrics.QUEUED_ROWS.labels(version.name, version.version),
        circuit=circuit,
        quarantined=metrics.MODEL_QUARANTINED.labels(version.name, version.version),
    )


def _lease_seconds(settings: Settings, row_seconds: float) -> float | None:
    """Several times a run among others, so that it seldom runs out while its holder computes; and short beside the
    deadline, as those who wait for one that died wait for two leases at most."""
    if row_seconds < settings.cache_claim_run_seconds:
        return None
    return min(max(_LEAST_LEASE_SECONDS, 20 * row_seconds), settings.deadline_seconds / 4)
