"""GET /metrics: this replica's, all its workers together. For Prometheus; nginx does not let it through.

It needs no key: there is nothing in it of what was asked and answered, replicas are not published, and a key for
Prometheus would be one more secret to keep, for nothing.
"""

from __future__ import annotations

import asyncio
import os

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from api.dependencies import CurrentReplica
from api.processes import ReplicaCollector

router = APIRouter(tags=["metrics"])


def _render() -> bytes:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(ReplicaCollector(os.getppid()))
    return generate_latest(registry)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(replica: CurrentReplica) -> Response:
    """Prometheus' text format. The README says what each metric means."""
    replica.report()
    # In a thread: reading every worker's files takes milliseconds, in which no prediction should wait.
    return Response(await asyncio.to_thread(_render), media_type=CONTENT_TYPE_LATEST)
