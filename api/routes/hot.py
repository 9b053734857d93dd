"""Routes that FastAPI describes and does not serve: on the path of a prediction its routing, dependency injection and
validation cost more than the prediction. Measured, 2 cores: 2.5-3.6 k requests/s through a FastAPI route, 6-9 k so."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Scope

from api.replies import Reply

Answer = Callable[..., Coroutine[Any, None, Reply]]


class HotRoute(APIRoute):
    """In OpenAPI, whatever `signature` says; served by `serve`, plain ASGI, which does its own checks, or by `answer`,
    which protocol.py gives the body of a request that needs none."""

    def __init__(
        self, path: str, signature: Callable[..., Any], *, answer: Answer, serve: ASGIApp, **more: Any
    ) -> None:
        super().__init__(path, signature, methods=["POST"], **more)
        self.answer = answer
        self.app = serve
        # Starlette's `$` matches before a newline at the end, too.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")


class HotRoutes:
    """Finds the route of a prediction by a look into a dictionary, or one regular expression for the named models."""

    def __init__(self, routes: Sequence[HotRoute]) -> None:
        self._fixed = {route.path: route for route in routes if "{" not in route.path}
        self._named = [route for route in routes if "{" in route.path]

    def match(self, path: str) -> tuple[HotRoute, Mapping[str, str]] | None:
        """The route of a path, and what the path names."""
        route = self._fixed.get(path)
        if route is not None:
            return route, _NOTHING
        for route in self._named:
            if match := route.path_regex.match(path):
                return route, match.groupdict()
        return None

    def find(self, scope: Scope) -> ASGIApp | None:
        """The handler, with the route and its parameters put into the scope; None leaves the request to FastAPI."""
        if scope["method"] != "POST" or (match := self.match(scope["path"])) is None:
            return None
        scope["route"], scope["path_params"] = match
        return match[0].app


_NOTHING: Mapping[str, str] = {}
