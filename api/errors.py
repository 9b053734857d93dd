"""What can go wrong, named after what the caller can do about it. No status codes: see problems.py."""

from __future__ import annotations


class ServingError(Exception):
    """The base of every error that a caller is answered with.

    `retry_after_seconds` is None where sending the same request again cannot help.
    """

    retry_after_seconds: int | None = None

    def __init__(self, detail: str, *, retry_after_seconds: int | None = None) -> None:
        """detail: for the caller: what was expected, what came and where."""
        super().__init__(detail)
        if retry_after_seconds is not None:
            self.retry_after_seconds = retry_after_seconds


class InvalidRequest(ServingError):
    """The body is not what the route takes: not JSON, a missing, unknown or repeated field."""


class InvalidParameters(ServingError):
    """A query parameter is not what the route takes."""


class InvalidRows(ServingError):
    """The body was understood, and its rows do not fit the model: width, type or value."""


class TooManyRows(ServingError):
    """More rows in one request than the limit. Send them in several requests."""


class BodyTooLarge(ServingError):
    """The body is longer than the limit. Send fewer rows."""


class UnsupportedMediaType(ServingError):
    """The body is not declared as application/json."""


class KeyRequired(ServingError):
    """The route is not open to all, and no key came, or one that is not known. Nothing was looked at but that."""


class AdminOnly(ServingError):
    """The key is known, and the route needs the admin token."""


class UnknownModel(ServingError):
    """No model of that name is served."""


class UnknownVersion(ServingError):
    """The model is served, but not in that version."""


class UnknownPrediction(ServingError):
    """No prediction of that id is in the log."""


class Overloaded(ServingError):
    """The queue is full. Nothing was computed; the same request may be sent again."""

    retry_after_seconds = 1


class DeadlineExceeded(ServingError):
    """No answer in time. The row may have been computed; sending it again is safe."""

    retry_after_seconds = 1


class Stopping(ServingError):
    """The replica stopped before the answer was there. The row may have been computed; sending it again is safe."""


class ModelFailed(ServingError):
    """The model raised, or gave something that is no answer; `__cause__` holds its exception if any."""


class ModelQuarantined(ServingError):
    """The model version has killed workers, one after the other, and is left alone. Nothing was computed."""

    retry_after_seconds = 60


class LogUnavailable(ServingError):
    """The answer could not be made durable, in Postgres or in the spool, so it was not given."""

    retry_after_seconds = 2


class FlushUnavailable(ServingError):
    """Postgres is away, and the cache cannot be flushed without it. Sending the same request again is safe."""

    retry_after_seconds = 2


class QueryUnavailable(ServingError):
    """Postgres is away: predictions are still answered and logged, but cannot be queried."""

    retry_after_seconds = 2


class UnknownJob(ServingError):
    """No job of that id was accepted."""


class JobUnfinished(ServingError):
    """The job has not ended yet, and only one that has can be asked for this."""

    retry_after_seconds = 1


class JobFinished(ServingError):
    """The job has ended already, so there is nothing to cancel."""


class NothingToRequeue(ServingError):
    """No chunk of the job was given up."""


class IdempotencyKeyInUse(ServingError):
    """A request with this Idempotency-Key is still arriving. Sending the same request again is safe."""

    retry_after_seconds = 5


class IdempotencyKeyReused(ServingError):
    """A different request was made with this Idempotency-Key. Choose another one."""


class JobsUnavailable(ServingError):
    """Postgres, which holds the jobs, is away. Sending the same request again is safe."""

    retry_after_seconds = 2
