"""Every error that Rushes raises for a caller to act on.

`RequestError` is the caller's to mend (a CLI exits with 2, a server answers 4xx); `ConfigError` is the
operator's; `EngineError` is ours. A message names the value, the rule it broke and the choices.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


class RushesError(Exception):
    """Base of all errors that Rushes raises on purpose."""


class ConfigError(RushesError):
    """An installation, environment or checkpoint cannot be used as it is."""


class CheckpointError(ConfigError):
    """A checkpoint folder is incomplete, damaged, of another model or of a model not supported."""


class RequestError(RushesError):
    """The request cannot be served as it was written."""


class InvalidRequest(RequestError):
    """One field of a request breaks a rule.

    Args:
        field: the field's name as the caller spells it.
        reason: value, rule and choices in one line.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class UnknownName(InvalidRequest):
    """A name that no registry, preset or solver table holds; the message suggests the nearest."""

    def __init__(self, field: str, name: str, choices: Iterable[str]) -> None:
        known = sorted(choices)
        super().__init__(
            field, f"unknown {name!r}{did_you_mean(name, known)}; choose from {', '.join(known)}"
        )
        self.name = name


class UnknownJob(RequestError):
    """No job has this id, or it was swept away after its time."""


class IdempotencyConflict(RequestError):
    """An idempotency key came again with another request."""


class QueueFull(RequestError):
    """Not admitted now.

    Args:
        retry_after_s: when the same request would be admitted, by what is predicted.
    """

    def __init__(self, reason: str, *, retry_after_s: float) -> None:
        super().__init__(f"{reason}; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class UnknownKey(RequestError):
    """No API key has this id."""


class UnknownBatch(RequestError):
    """No batch has this id, or it is another tenant's."""


class Unauthenticated(RequestError):
    """No key was shown, or one that is unknown, expired or revoked."""


class Forbidden(RequestError):
    """The key lacks a scope.

    Args:
        scope: the one that the call needs.
    """

    def __init__(self, scope: str) -> None:
        super().__init__(f"this key lacks the scope {scope!r}")
        self.scope = scope


class LimitReached(RequestError):
    """A key has used up what it may take.

    Args:
        reason: which limit, in one line.
        retry_after_s: when the same call may do.
        limit: what the key may take.
        used: of it, just now.
        reset_s: when all of the limit is there again, as far as can be told.
        may_wait: False where the same call will never do, whenever it is made.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after_s: float,
        limit: float,
        used: float,
        reset_s: float,
        may_wait: bool = True,
    ) -> None:
        super().__init__(f"{reason}; try again in {retry_after_s:.0f} s" if may_wait else reason)
        self.retry_after_s = retry_after_s
        self.limit = limit
        self.used = used
        self.remaining = max(0.0, limit - used)
        self.reset_s = reset_s


class RateLimited(LimitReached):
    """Too many requests within a minute."""


class TooManyJobs(LimitReached):
    """As many jobs as the key may have at once are queued or running."""


class TooManyBatches(LimitReached):
    """As many batches as a tenant may have at once still wait for their jobs."""


class QuotaExceeded(LimitReached):
    """The job would take more device seconds than the key has left today."""


class EngineError(RushesError):
    """The engine failed a valid request."""


class StageError(EngineError):
    """A stage raised something that nobody foresaw."""


class EngineStopped(EngineError):
    """The engine goes, or a bug of its own has stopped it; its jobs go back to the queue."""


class OutOfMemory(EngineError):
    """The device ran out of memory, also with the job alone on it."""


class DeadlineExceeded(EngineError):
    """The job could not be finished before its deadline."""


class WorkerDied(EngineError):
    """The job ended the process that ran it, again and again."""


class JobCancelled(RushesError):
    """The job was cancelled while somebody waited for it."""


class StoreError(RushesError):
    """A store of jobs or bytes cannot be read or written."""


class LeaseLost(StoreError):
    """Another worker has this job now: what the holder of the old lease made must be thrown away."""


class ResumeError(StoreError):
    """A job cannot go on from this checkpoint: it is damaged, or of another request, model or version."""


class OutputError(RushesError):
    """A result could not be written (disk full, no permission, unknown format)."""


JOB_FAILURES: tuple[type[RushesError], ...] = (
    CheckpointError,
    ConfigError,
    DeadlineExceeded,
    EngineError,
    OutOfMemory,
    OutputError,
    StageError,
    WorkerDied,
)
"""What a job may end with. Stores keep the class's name, a service tells its `snake`."""


class ServiceError(RushesError):
    """A service could not be reached, or could not answer: the same call may do later."""


def snake(name: str) -> str:
    """A class's name as the code that a service answers with.

    Example:
        >>> snake("WorkerDied")
        'worker_died'
    """
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


_ALSO_CALLED = {
    "steps": "num_inference_steps",
    "frames": "num_frames",
    "length": "num_frames",
    "size": "width",
    "cfg": "guidance_high",
    "guidance": "guidance_high",
    "guidance_scale": "guidance_high",
    "format": "output",
}
"""What other programs call our fields, and spelling does not lead to."""


def also_called(name: str, choices: Collection[str]) -> str | None:
    """The choice that other programs call `name`, or None."""
    meant = _ALSO_CALLED.get(name)
    return meant if meant in choices else None


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, or None when nothing is near."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return also_called(name, choices) or (close[0] if close else None)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"`, or an empty string when nothing is near."""
    near = nearest(name, choices)
    return f" (did you mean {near!r}?)" if near else ""
