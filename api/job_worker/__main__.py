"""`python -m api.job_worker [chunks | callbacks]`: until SIGTERM, which lets it finish what it has in hand."""

from __future__ import annotations

import asyncio
import contextlib
import logging.config
import os
import signal
import sys

# One process, which keeps its metrics to itself. Before they are imported: they look for this.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import uvloop

from api.job_worker.courier import report, reporting
from api.logs import dict_config
from api.settings import Settings


async def _main(settings: Settings, only: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if only == "callbacks":
        await report(settings, stop)
        return
    from api.app import load_programs  # torch takes seconds to import, and is not needed for callbacks
    from api.job_worker.worker import work
    from api.models.repository import Repository

    repository = Repository.open(settings.model_repository)
    programs = load_programs(repository, settings.device)
    async with contextlib.AsyncExitStack() as stack:
        if only != "chunks":
            await stack.enter_async_context(reporting(settings))
        await work(settings, repository, programs, stop)


def main(only: str = "") -> None:
    """only: chunks or callbacks; else both."""
    settings = Settings()
    logging.config.dictConfig(dict_config(settings.log_level))
    uvloop.run(_main(settings, only))


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["chunks"], ["callbacks"]):
        sys.exit("usage: python -m api.job_worker [chunks | callbacks]")
    main(*sys.argv[1:])
