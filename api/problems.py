"""What an error looks like on the wire: one table, error type -> status and slug."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from api import errors

MEDIA_TYPE = b"application/problem+json"


class Problem(NamedTuple):
    status: int
    slug: str
    title: str
    challenge: bytes | None = None
    """WWW-Authenticate, which says what would have been let in; RFC 6750, 3."""


_BEARER = b'Bearer realm="shoal"'

PROBLEMS: dict[type[errors.ServingError], Problem] = {
    errors.InvalidRequest: Problem(400, "invalid-request", "The body is not what this route takes"),
    errors.InvalidParameters: Problem(422, "invalid-parameters", "A parameter is not what this route takes"),
    errors.InvalidRows: Problem(422, "invalid-rows", "A row does not fit the model"),
    errors.TooManyRows: Problem(413, "too-many-rows", "Too many rows in one request"),
    errors.BodyTooLarge: Problem(413, "body-too-large", "The body is too large"),
    errors.UnsupportedMediaType: Problem(415, "unsupported-media-type", "The body is not declared as JSON"),
    errors.KeyRequired: Problem(401, "key-required", "A key is needed, and none that is known came", _BEARER),
    errors.AdminOnly: Problem(
        403, "admin-only", "The admin token is needed", _BEARER + b', error="insufficient_scope"'
    ),
    errors.UnknownModel: Problem(404, "unknown-model", "No such model"),
    errors.UnknownVersion: Problem(404, "unknown-version", "No such version of the model"),
    errors.UnknownPrediction: Problem(404, "unknown-prediction", "No such prediction in the log"),
    errors.UnknownJob: Problem(404, "unknown-job", "No such job"),
    errors.JobUnfinished: Problem(409, "job-unfinished", "The job has not ended yet"),
    errors.JobFinished: Problem(409, "job-finished", "The job has ended already"),
    errors.NothingToRequeue: Problem(409, "nothing-to-requeue", "No chunk of the job was given up"),
    errors.IdempotencyKeyInUse: Problem(409, "idempotency-key-in-use", "A request with this key is still arriving"),
    errors.IdempotencyKeyReused: Problem(422, "idempotency-key-reused", "The key belongs to a different request"),
    errors.Overloaded: Problem(429, "overloaded", "Too many rows or requests are waiting"),
    errors.ModelFailed: Problem(500, "model-failed", "The model failed"),
    errors.ModelQuarantined: Problem(503, "model-quarantined", "The model kills workers and is left alone"),
    errors.QueryUnavailable: Problem(503, "query-unavailable", "The log cannot be read at the moment"),
    errors.FlushUnavailable: Problem(503, "flush-unavailable", "The cache cannot be flushed at the moment"),
    errors.JobsUnavailable: Problem(503, "jobs-unavailable", "Jobs cannot be taken or read at the moment"),
    errors.LogUnavailable: Problem(503, "log-unavailable", "The answer could not be made durable"),
    errors.Stopping: Problem(503, "stopping", "The replica stopped before the answer was there"),
    errors.DeadlineExceeded: Problem(504, "deadline-exceeded", "No answer in time"),
}
# What cannot be parsed never becomes a request, and has no route.
MALFORMED = Problem(400, "malformed-request", "Not an HTTP request that this server understands")
NOT_FOUND = Problem(404, "not-found", "No such path")
METHOD_NOT_ALLOWED = Problem(405, "method-not-allowed", "The path does not take this method")
INVALID_REQUEST = PROBLEMS[errors.InvalidRequest]
INVALID_PARAMETERS = PROBLEMS[errors.InvalidParameters]
INTERNAL = Problem(500, "internal-error", "Something broke that is not your fault")

ALL = (*PROBLEMS.values(), MALFORMED, NOT_FOUND, METHOD_NOT_ALLOWED, INTERNAL)


def of(error: errors.ServingError) -> Problem:
    return PROBLEMS[type(error)]


def body(problem: Problem, detail: str, request_id: str) -> bytes:
    """The `application/problem+json` body of RFC 9457."""
    members: dict[str, Any] = {
        "type": f"urn:shoal:problem:{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "request_id": request_id,
    }
    return msgspec.json.encode(members)


def headers(error: errors.ServingError | None = None) -> list[tuple[bytes, bytes]]:
    fields = [(b"content-type", MEDIA_TYPE), (b"cache-control", b"no-store")]
    if error is not None and (challenge := of(error).challenge) is not None:
        fields.append((b"www-authenticate", challenge))
    if error is not None and error.retry_after_seconds is not None:
        fields.append((b"retry-after", b"%d" % error.retry_after_seconds))
    return fields
