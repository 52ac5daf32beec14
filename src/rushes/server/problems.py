"""Every error in one JSON shape, and its HTTP status."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rushes.errors import (
    ConfigError,
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    LimitReached,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    RequestError,
    RushesError,
    StoreError,
    TooManyBatches,
    TooManyJobs,
    Unauthenticated,
    UnknownBatch,
    UnknownJob,
)
from rushes.pipelines.fields import short_repr

INVALID = "invalid_request_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        code: one word for programs; docs/service.md lists them.
        type: OpenAI's coarser word.
        message: value, rule and choices in one line for a reader.
        field, value, rule: what is to blame, where one field is.
        more: further keys of the error, such as the figures of a limit.
        retry_after_s: sent as `Retry-After`.
        more_headers: further ones that belong to it.
    """

    status: int
    code: str
    message: str
    type: str = INVALID
    field: str | None = None
    value: Any = None
    rule: str | None = None
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    retry_after_s: float | None = None
    more_headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def content(self, request_id: str | None = None) -> dict[str, Any]:
        """The JSON body."""
        error: dict[str, Any] = {
            "type": self.type,
            "code": self.code,
            "message": self.message,
            "param": self.field,
            **self.more,
        }
        if self.field is not None:
            error |= {"field": self.field, "value": _plain(self.value), "rule": self.rule}
        if request_id is not None:
            error["request_id"] = request_id
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Those that belong to it."""
        if self.retry_after_s is None:
            return dict(self.more_headers)
        return {**self.more_headers, "Retry-After": str(max(1, math.ceil(min(self.retry_after_s, 86_400.0))))}


class ProblemError(Exception):
    """Ends a request with a problem that no error of the library stands for."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def not_found(what: str) -> Problem:
    """Nothing of that name that this caller may see."""
    return Problem(status=404, code="not_found", message=f"there is no {what}")


def problem_of(error: Exception, body: Mapping[str, Any] | None = None) -> Problem:
    """What to answer.

    Args:
        body: what the caller sent, to show the value of the field that is to blame.
    """
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, InvalidRequest):
        value = (body or {}).get(error.field)
        return Problem(
            status=400,
            code="invalid_request",
            message=str(error),
            field=error.field,
            value=value,
            rule=error.reason,
        )
    if isinstance(error, QueueFull):
        more = {"retry_after_s": round(error.retry_after_s, 1)}
        return _limited("queue_full", error, error.retry_after_s, more)
    if isinstance(error, LimitReached):
        figures = {name: round(getattr(error, name), 3) for name in _FIGURES}
        return _limited(_LIMITS[type(error)], error, error.retry_after_s, figures)
    for kind, (status, code, type_) in _ANSWERS.items():
        if isinstance(error, kind):
            retry = 1.0 if status == 503 else None
            # A store's message names folders of the server: it goes to the log, not to the caller.
            message = "the store cannot be used just now" if status == 503 else str(error)
            return Problem(status=status, code=code, message=message, type=type_, retry_after_s=retry)
    return Problem(status=500, code="internal", message="an error of the server's own", type="server_error")


_ANSWERS: Mapping[type[RushesError], tuple[int, str, str]] = {
    Unauthenticated: (401, "unauthenticated", "authentication_error"),
    Forbidden: (403, "forbidden", "permission_error"),
    UnknownJob: (404, "not_found", INVALID),
    UnknownBatch: (404, "not_found", INVALID),
    IdempotencyConflict: (409, "idempotency_conflict", INVALID),
    StoreError: (503, "store_unavailable", "server_error"),
    ConfigError: (503, "store_unavailable", "server_error"),
    RequestError: (400, "invalid_request", INVALID),
}
"""By class, the narrower first."""

_LIMITS: Mapping[type[LimitReached], str] = {
    RateLimited: "rate_limited",
    TooManyJobs: "too_many_jobs",
    TooManyBatches: "too_many_batches",
    QuotaExceeded: "quota_exceeded",
}
_FIGURES = ("limit", "used", "remaining", "reset_s", "retry_after_s")


def _limited(code: str, error: Exception, retry_after_s: float, more: Mapping[str, Any]) -> Problem:
    return Problem(
        status=429,
        code=code,
        message=str(error),
        type="rate_limit_error",
        more=more,
        retry_after_s=retry_after_s,
    )


def _plain(value: Any) -> Any:
    """What JSON can hold; anything else, and long text, as a short text."""
    if value is None or isinstance(value, (bool, int)):
        return value if not isinstance(value, int) or value.bit_length() < 64 else str(value)[:80]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value if isinstance(value, str) else short_repr(value, 200)
    return text if len(text) <= 200 else f"{text[:197]}..."
