"""GET /health: is the process alive, can it predict, and what is the state of what it depends on.

`live` and `ready` need no key (access/gate.py): those who ask are an orchestrator's probes and load balancers.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from api import __version__
from api.dependencies import CurrentReplica
from api.replica import Replica
from api.schemas import Health

router = APIRouter(prefix="/health", tags=["health"])


@router.get("")
async def health(replica: CurrentReplica) -> Health:
    """The state of each component. Without Redis answers cost more, without Postgres they go to the spool: both are
    `degraded`, and both still answer and keep every prediction."""
    return await _health(replica)


@router.get("/live")
async def live() -> dict[str, str]:
    """200 while the process runs its event loop. A failure means: restart it."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"description": "No prediction is possible.", "model": Health}})
async def ready(replica: CurrentReplica, response: Response) -> Health:
    """200 while a prediction is possible: the default model is loaded, and Postgres or the spool takes its row."""
    state = await _health(replica)
    if state.status == "unavailable":
        response.status_code = 503
    return state


async def _health(replica: Replica) -> Health:
    redis_up = await replica.shared.ping()
    log = replica.log.status()
    components: dict[str, dict[str, Any]] = {
        "models": {
            "status": "up" if replica.serves_default else "down",
            "served": len(replica.served),
            "refused": len(replica.repository.refusals),
        },
        "redis": {"status": "up" if redis_up else "down"},
        "postgres": {"status": "up" if log.postgres_up else "down"},
        "spool": {"status": "up" if log.spool_writable else "down", "rows": log.spool_rows},
    }
    if not replica.serves_default or not (log.postgres_up or log.spool_writable):
        status = "unavailable"
    elif all(component["status"] == "up" for component in components.values()):
        status = "ok"
    else:
        status = "degraded"
    return Health(status=status, version=__version__, components=components)
