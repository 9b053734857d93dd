"""The tutorial: what one writes after reading how to use FastAPI, Redis and Postgres. A synchronous Redis client and
one connection to Postgres in each process; each answer is looked up, computed, kept, inserted and committed by itself.

It has the same models, called in the same way as Shoal calls them, one thread a run, as two workers share two cores.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import psycopg
import redis
from fastapi import FastAPI
from pydantic import BaseModel

from api.models.repository import Repository
from api.models.runtime import Program, use_threads
from api.settings import HERE

REDIS_URL = os.environ["BENCH_REDIS_URL"]
POSTGRES_DSN = os.environ["BENCH_POSTGRES_DSN"]
WORKERS = 2

TABLE = """
CREATE TABLE IF NOT EXISTS predictions (
    id bigserial PRIMARY KEY,
    input_data jsonb NOT NULL,
    prediction integer NOT NULL,
    confidence double precision NOT NULL,
    timestamp timestamptz NOT NULL DEFAULT now()
)
"""
INSERT = "INSERT INTO predictions (input_data, prediction, confidence) VALUES (%s, %s, %s)"


class Penguin(BaseModel):
    features: list[float]


class Image(BaseModel):
    features: list[list[float]]


class Answer(BaseModel):
    prediction: int
    label: str
    confidence: float
    cached: bool


class Model:
    def __init__(self, repository: Repository, name: str) -> None:
        version = repository.resolve(name)
        self.name = name
        self.classes = version.manifest.classes or []
        self.program = Program.load(version)
        self.runs = threading.Lock()  # of a program there is one at a time

    def predict(self, features: list[float] | list[list[float]]) -> dict[str, object]:
        with self.runs:
            [probabilities] = self.program.run(np.array([features], dtype=np.float32))
        index = int(probabilities.argmax())
        return {"prediction": index, "label": self.classes[index], "confidence": float(probabilities[index])}


class Clients:
    """Connected in each worker, as neither survives a fork."""

    redis: redis.Redis
    postgres: psycopg.Connection


clients = Clients()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    use_threads(0, WORKERS)
    clients.redis = redis.Redis.from_url(REDIS_URL)
    clients.postgres = psycopg.connect(POSTGRES_DSN)
    yield
    clients.postgres.close()


def answer(model: Model, features: list[float] | list[list[float]]) -> Answer:
    key = f"{model.name}:{json.dumps(features)}"
    kept = clients.redis.get(key)
    if kept is not None:
        found = json.loads(kept)
    else:
        found = model.predict(features)
        clients.redis.setex(key, 3600, json.dumps(found))
    clients.postgres.execute(INSERT, (json.dumps(features), found["prediction"], found["confidence"]))
    clients.postgres.commit()
    return Answer(**found, cached=kept is not None)


def create_app() -> FastAPI:
    with psycopg.connect(POSTGRES_DSN) as connection:
        connection.execute(TABLE)
    repository = Repository.open(HERE / "model_repository")
    penguins, digits = Model(repository, "penguins"), Model(repository, "digits")
    app = FastAPI(lifespan=lifespan)

    # Plain functions, which FastAPI calls in threads, as its documentation has it for what blocks. Measured with zipf:
    # a tenth more requests than on the event loop, and a quarter of its p99.
    @app.post("/predict")
    def predict(body: Penguin) -> Answer:
        return answer(penguins, body.features)

    @app.post("/models/digits/predict")
    def predict_image(body: Image) -> Answer:
        return answer(digits, body.features)

    @app.get("/health/ready")
    async def ready() -> None:
        return None

    return app
