"""The problems a route may answer with, for OpenAPI."""

from __future__ import annotations

from typing import Any

from api import problems
from api.schemas import ProblemBody

_MEDIA_TYPE = problems.MEDIA_TYPE.decode()


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """One entry a status, naming every problem that has it."""
    return {status: _response(status) for status in statuses}


def _response(status: int) -> dict[str, Any]:
    listed = [problem for problem in problems.ALL if problem.status == status]
    schema = ProblemBody.model_json_schema()
    return {
        "description": "; ".join(f"`{problem.slug}`: {problem.title}" for problem in listed),
        "content": {_MEDIA_TYPE: {"schema": schema}},
    }
