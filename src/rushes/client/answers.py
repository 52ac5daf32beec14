"""A service's errors as the library's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2

from rushes.errors import (
    JOB_FAILURES,
    EngineError,
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    JobCancelled,
    LimitReached,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    RequestError,
    RushesError,
    ServiceError,
    TooManyBatches,
    TooManyJobs,
    Unauthenticated,
    UnknownBatch,
    UnknownJob,
    snake,
)

_LIMITS: Mapping[str, type[LimitReached]] = {
    snake(kind.__name__): kind for kind in (RateLimited, TooManyJobs, TooManyBatches, QuotaExceeded)
}
_ENDS: Mapping[str, type[RushesError]] = {snake(kind.__name__): kind for kind in JOB_FAILURES}
"""What a job may end with, by the code of a video's error."""


def error_of(response: httpx2.Response) -> RushesError:
    """What an answer of 4xx or 5xx stands for; its body must have been read."""
    try:
        error = response.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, LookupError, TypeError):  # a proxy's page, say
        return ServiceError(f"{_where(response)} answered {response.status_code}, without saying why")
    if code == "queue_full":
        after_s = float(error["retry_after_s"])
        return QueueFull(_without_advice(message, after_s), retry_after_s=after_s)
    if code in _LIMITS:
        return _limit_reached(_LIMITS[code], message, error)
    if code == "forbidden":
        return _forbidden(message)
    if code == "not_found":
        is_batch = response.request.url.path.startswith("/v1/batches/")
        return UnknownBatch(message) if is_batch else UnknownJob(message)
    if code == "unauthenticated":
        return Unauthenticated(message)
    if code == "idempotency_conflict":
        return IdempotencyConflict(message)
    if error.get("field") is not None:
        return InvalidRequest(str(error["field"]), str(error["rule"]))
    if response.status_code < 500:
        return RequestError(message)
    return ServiceError(f"{_where(response)}: {message}")


def end_of(video: Mapping[str, Any]) -> RushesError | None:
    """What a video ended with instead of a file; None for one that did not."""
    error = video["error"]
    if error is None:
        return None
    if error["code"] == "cancelled":
        return JobCancelled(f"job {video['id']} was cancelled")
    return _ENDS.get(error["code"], EngineError)(error["message"])


def _limit_reached(kind: type[LimitReached], message: str, error: Mapping[str, Any]) -> LimitReached:
    after_s = float(error["retry_after_s"])
    return kind(
        _without_advice(message, after_s),
        retry_after_s=after_s,
        limit=float(error["limit"]),
        used=float(error["used"]),
        reset_s=float(error["reset_s"]),
    )


def _forbidden(message: str) -> Forbidden:
    """Its scope stands between quotes."""
    return Forbidden(message.split("'")[1] if "'" in message else message)


def _without_advice(message: str, after_s: float) -> str:
    """The error adds again when to try."""
    return message.rpartition("; try again in ")[0] or message


def _where(response: httpx2.Response) -> str:
    return str(response.request.url.copy_with(query=None))
