"""Turns what the app's own routes raise into problems. The hot routes do it themselves, in routes/predict.py."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException

from api import problems
from api.errors import ServingError
from api.problems import Problem


def install(app: FastAPI) -> None:
    app.add_exception_handler(ServingError, _serving_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameters)
    app.add_exception_handler(HTTPException, _http_error)


def _reply(request: Request, problem: Problem, detail: str, error: ServingError | None = None) -> Response:
    context = request.scope["shoal"]
    context.outcome = problem.slug
    response = Response(problems.body(problem, detail, context.request_id), problem.status)
    response.raw_headers.extend(problems.headers(error))
    return response


async def _serving_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)  # noqa: S101  the type it was registered for
    return _reply(request, problems.of(error), str(error), error)


async def _invalid_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    faults = "; ".join(f"{fault['msg']} ({'.'.join(map(str, fault['loc']))})" for fault in error.errors())
    return _reply(request, problems.INVALID_PARAMETERS, faults)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == 400:  # FastAPI's, of a body that is not even text
        return _reply(request, problems.INVALID_REQUEST, "expected a JSON object in UTF-8, got something else")
    if error.status_code == 404:
        return _reply(request, problems.NOT_FOUND, f"there is no {request.url.path}; see /docs")
    if error.status_code == 405:
        allowed = _allowed(request)
        response = _reply(request, problems.METHOD_NOT_ALLOWED, f"expected {allowed}, got {request.method}")
        response.headers["allow"] = allowed
        return response
    raise error  # nothing here raises another; the envelope answers it as a bug


def _allowed(request: Request) -> str:
    """The methods of the path. What Starlette gives are those of the first of its routes, and it may have several."""
    path = request.scope["path"]
    of_path = (
        route.methods
        for route in iter_route_contexts(request.app.routes)
        if route.methods and route.path_regex.match(path)
    )
    return ", ".join(sorted(set().union(*of_path)))
