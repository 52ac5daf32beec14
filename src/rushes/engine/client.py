"""Submit jobs and see what becomes of them, over a store of jobs. No torch here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from hashlib import blake2b
from typing import Protocol

from rushes.engine.admission import Accept
from rushes.errors import JOB_FAILURES, EngineError, JobCancelled, RushesError
from rushes.stores.base import JobRecord, JobStore
from rushes.types import FINAL, GenerateRequest, JobEvent, JobOptions

POLL_S = 0.05

ERRORS: dict[str, type[RushesError]] = {error.__name__: error for error in JOB_FAILURES}
"""By `JobRecord.error_kind`; a kind that is not here is an `EngineError`."""


class EngineClient(Protocol):
    """What front ends stand on; the same in one process and over a store that many processes share."""

    def submit(self, request: GenerateRequest, options: JobOptions | None = None) -> str:
        """Queue a job and return its id.

        Raises:
            QueueFull: not now; it says when.
            RequestError: never, as it is asked for (the message says what would fit).
            IdempotencyConflict: the key belongs to another request.
        """

    def events(self, job_id: str, *, after: int = 0) -> Iterator[JobEvent]:
        """Events with a number above `after`, as they happen, up to the one that ends the job. Raises
        `UnknownJob`."""

    def status(self, job_id: str) -> JobRecord:
        """The job as it stands. Raises `UnknownJob`."""

    def cancel(self, job_id: str) -> JobRecord:
        """Ask for its end; see `JobStore.cancel`."""


class Admits(Protocol):
    """Who decides whether a job is taken: `rushes.engine.announcements.StoreAdmission`."""

    def admit(self, request: GenerateRequest, options: JobOptions) -> Accept | None:
        """The promise, None where nobody can tell. Raises `QueueFull` or another `RequestError`."""


class Watch(Protocol):
    """How a client waits for news from its store."""

    def mark(self) -> int:
        """To be taken before the store is read."""

    def wait(self, mark: int) -> None:
        """Return when the store may have changed since `mark`; raises what ends the waiting."""


class Poll:
    """Looks again after a while: a store that other processes write tells nobody."""

    def __init__(self, seconds: float = POLL_S) -> None:
        self._seconds = seconds

    def mark(self) -> int:
        """See `Watch`."""
        return 0

    def wait(self, mark: int) -> None:
        """See `Watch`."""
        time.sleep(self._seconds)


class StoreClient:
    """An `EngineClient` over a `JobStore`.

    Args:
        admission: None takes everything; workers refuse what does not fit them.
        watch: how to wait for events; None looks every `POLL_S`.
    """

    def __init__(
        self,
        store: JobStore,
        admission: Admits | None = None,
        *,
        watch: Watch | None = None,
    ) -> None:
        self.store = store
        self._admission = admission
        self._watch = watch or Poll()

    def submit(self, request: GenerateRequest, options: JobOptions | None = None) -> str:
        """See `EngineClient.submit`."""
        options = options or JobOptions()
        earlier = self.earlier(request, options)
        return (earlier or self.create(request, options, self.promise(request, options))).id

    def earlier(self, request: GenerateRequest, options: JobOptions) -> JobRecord | None:
        """The job that the same idempotency key and request made before. Raises `IdempotencyConflict`."""
        return self.store.earlier(request, options) if options.idempotency_key else None

    def promise(self, request: GenerateRequest, options: JobOptions) -> Accept | None:
        """What is promised to a new job, None where nobody can tell. Raises as `EngineClient.submit`."""
        return self._admission.admit(request, options) if self._admission else None

    def create(
        self,
        request: GenerateRequest,
        options: JobOptions,
        promise: Accept | None,
        *,
        asked: GenerateRequest | None = None,
        exact_key: str | None = None,
        reuse: str | None = None,
    ) -> JobRecord:
        """Queue what was promised.

        Args:
            asked: the request as it came, None for `request`.
            exact_key: jobs of one key share one clip; None for a clip of its own.
            reuse: see `JobRecord.reuse`.
        """
        asked = asked or request
        joins = exact_key is not None
        if promise is None:
            return self.store.create(
                request, options, asked=asked, exact_key=exact_key, reuse=reuse, joins=joins
            )
        return self.store.create(
            promise.request,
            options,
            predicted_s=promise.predicted_s,
            eta_s=promise.eta_s,
            changes=promise.changes,
            asked=asked,
            needs_bytes=promise.peak_bytes,
            exact_key=exact_key,
            reuse=reuse,
            joins=joins,
        )

    def events(self, job_id: str, *, after: int = 0) -> Iterator[JobEvent]:
        """See `EngineClient.events`."""
        while True:
            mark = self._watch.mark()
            found = self.store.events(job_id, after=after)
            for event in found:
                after = event.number
                yield event
                if event.kind in FINAL:
                    return
            if not found:
                self._watch.wait(mark)

    def status(self, job_id: str) -> JobRecord:
        """See `EngineClient.status`."""
        return self.store.get(job_id)

    def cancel(self, job_id: str) -> JobRecord:
        """See `EngineClient.cancel`."""
        return self.store.cancel(job_id)


def seed_for(tenant: str, idempotency_key: str) -> int:
    """A seed for a request that names none but comes with a key: the same for the same key, so that the
    request sent again is the same request."""
    digest = blake2b(f"{tenant}\0{idempotency_key}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def result(client: EngineClient, job_id: str) -> JobRecord:
    """Wait for a job's end and return it completed.

    Raises:
        JobCancelled: it was cancelled.
        EngineError: it failed; the subclass says how.
    """
    for _ in client.events(job_id):
        pass
    record = client.status(job_id)
    if record.status == "cancelled":
        raise JobCancelled(f"job {job_id} was cancelled")
    if record.status == "failed":
        raise ERRORS.get(record.error_kind or "", EngineError)(record.error or "unknown")
    return record
