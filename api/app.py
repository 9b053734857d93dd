"""The composition root: read it top to bottom to know what a replica is made of."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import __version__, handlers, lifespan, openapi
from api.circuits import Circuits
from api.middleware import Envelope
from api.models.repository import Repository
from api.models.runtime import InvalidArtefact, Program
from api.routes import admin, health, jobs, metrics, models, predict, predictions
from api.routes.hot import HotRoutes
from api.settings import Settings

logger = logging.getLogger(__name__)

DESCRIPTION = """
PyTorch models, served from a shoal of identical replicas. A 200 means that the answer is durably
in the prediction log.

Errors are `application/problem+json`: `type` names the problem, `detail` says what was expected, what came and where.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Loads the models and builds the app. Called once, before the workers are forked: they share the weights.

    Nothing is run and nothing is connected here; lifespan.py does both, after the fork.
    """
    settings = settings or Settings()
    repository = Repository.open(settings.model_repository)
    return build_app(settings, repository, load_programs(repository, settings.device))


def build_app(settings: Settings, repository: Repository, programs: lifespan.Programs) -> FastAPI:
    """The app over models that are loaded already."""

    circuits = Circuits(list(repository.versions))

    def open_replica(app: FastAPI) -> AbstractAsyncContextManager[lifespan.State]:
        return lifespan.open_replica(settings, repository, programs, circuits)

    # FastAPIOffline serves /docs and /redoc from files of its own, where FastAPI would send the browser to a CDN.
    app = FastAPIOffline(
        title="Shoal", version=__version__, description=DESCRIPTION, lifespan=open_replica, redirect_slashes=False
    )
    app.state.circuits = circuits  # for the master, which hears of a worker's death: gunicorn.conf.py
    app.add_middleware(Envelope, hot=HotRoutes(predict.ROUTES))
    handlers.install(app)
    app.router.routes.extend(predict.ROUTES)
    for router in (models.router, predictions.router, jobs.router, admin.router, health.router, metrics.router):
        app.include_router(router)
    openapi.describe_access(app, asks_for_keys=settings.keys_file is not None)
    return app


def load_programs(repository: Repository, device: str) -> dict[tuple[str, str], Program]:
    """A program for each version. One that does not load is refused, with a line saying why; the others serve."""
    programs: dict[tuple[str, str], Program] = {}
    for key, version in list(repository.versions.items()):
        try:
            programs[key] = Program.load(version, device)
        except InvalidArtefact as error:
            repository.refuse(version, str(error))
    for refusal in repository.refusals:
        logger.error("refused %s: %s", refusal.path, refusal.reason)
    return programs
