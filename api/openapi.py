"""What the API's description says of keys: which operations need one, how it comes, and what is said without."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from api.access.gate import OPEN, is_for_admins
from api.routes.responses import problem_responses

_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key, where the server asks for one."},
    "keyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same in another header."},
    "adminToken": {"type": "http", "scheme": "bearer", "description": "The admin token."},
}


def describe_access(app: FastAPI, *, asks_for_keys: bool) -> None:
    """Has the app describe what gate.py does, which its routes know nothing of."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        description = described()
        if "securitySchemes" not in description["components"]:
            description["components"]["securitySchemes"] = _SCHEMES
            for path, operations in description["paths"].items():
                for operation in operations.values():
                    _add_access(path, operation, asks_for_keys)
        return description

    app.openapi = openapi  # type: ignore[method-assign]


def _add_access(path: str, operation: dict[str, Any], asks_for_keys: bool) -> None:
    if is_for_admins(path):
        operation["security"] = [{"adminToken": []}]
        statuses: tuple[int, ...] = (401, 403)
    elif asks_for_keys and path not in OPEN:
        operation["security"] = [{"key": []}, {"keyHeader": []}]
        statuses = (401,)
    else:
        return
    responses = operation["responses"] | {str(status): of for status, of in problem_responses(*statuses).items()}
    operation["responses"] = dict(sorted(responses.items()))
