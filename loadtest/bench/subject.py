"""What is measured: an app with its stores, and how it is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stores:
    """Where a subject's stores are reached."""

    dsn: str
    redis_socket: Path


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    app: for gunicorn; "" is nginx alone, None a replica by its own start script. is_replica: whether it has a replica's
    settings, routes and metrics. logs: whether each answered row must be in `predictions`. stopped: processes that are
    stopped again once all is up. replicas: how many, behind the one nginx. models: what it serves instead of the
    shipped ones; see generated.py. prepare: called when all is up, before anything is measured; before_round: before
    each round.
    """

    name: str
    about: str
    app: str | None = None
    stores: bool = True
    is_replica: bool | None = None
    logs: bool = True
    stopped: tuple[str, ...] = ()
    replicas: int = 1
    models: tuple[str, ...] = ()
    prepare: Callable[[Stores], None] | None = None
    before_round: Callable[[Stores], None] | None = None
    env: dict[str, str] = field(default_factory=dict)

    @property
    def has_replica(self) -> bool:
        return self.app is None if self.is_replica is None else self.is_replica
