"""Reports the ends of jobs. Runs no model, so that it may reach the outside, which a process that runs one need not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from api import __version__
from api.job_worker.status import status_pages
from api.jobs.callbacks import CallbackPolicy
from api.jobs.courier import Courier
from api.jobs.database import Database
from api.prediction_log.link import end
from api.settings import Settings

logger = logging.getLogger(__name__)


@asynccontextmanager
async def reporting(settings: Settings) -> AsyncIterator[None]:
    """Callbacks are delivered inside; nothing happens where they are not set up."""
    if settings.callback_secret is None:
        logger.info("no callbacks: there is no SHOAL_CALLBACK_SECRET to sign them with")
        yield
        return
    password = settings.postgres_password
    database = Database(
        dsn=settings.postgres_dsn, password=password.get_secret_value() if password else None, pool_size=2
    )
    courier = Courier(
        database,
        secret=settings.callback_secret.get_secret_value(),
        policy=CallbackPolicy(can_sign=True, to_private_addresses=settings.callback_to_private_addresses),
        timeout_seconds=settings.callback_timeout_seconds,
        max_attempts=settings.callback_max_attempts,
    )
    await database.open()
    running = asyncio.create_task(courier.run(), name="jobs: callbacks")
    try:
        yield
    finally:
        await end(running)
        await database.close()


async def report(settings: Settings, stop: asyncio.Event) -> None:
    """A process of its own: callbacks, until `stop` is set."""
    state: dict[str, Any] = {"status": "ok", "version": __version__, "callbacks": settings.callback_secret is not None}
    async with reporting(settings), status_pages(settings.bind, lambda: state):
        await stop.wait()
