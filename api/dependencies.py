"""Hands the worker's open state to routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from api.replica import Replica


def _replica(request: Request) -> Replica:
    replica: Replica = request.state.replica
    return replica


CurrentReplica = Annotated[Replica, Depends(_replica)]
