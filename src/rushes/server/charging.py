"""Submitting a job at its caller's expense."""

from __future__ import annotations

import secrets

from rushes.engine.admission import Accept
from rushes.engine.client import Admits, StoreClient
from rushes.server.auth import Caller
from rushes.server.limits import Limits
from rushes.stores.base import JobStore
from rushes.stores.charges import Reservation
from rushes.types import GenerateRequest, JobOptions


def submit_charged(
    jobs: JobStore,
    admission: Admits | None,
    limits: Limits,
    caller: Caller,
    request: GenerateRequest,
    options: JobOptions,
) -> str:
    """`StoreClient.submit`, with what the job is predicted to take, after any degradation, taken from the
    caller's limits. The job of an earlier call with the same idempotency key takes nothing, and is returned
    also to a caller whose limits are used up.

    Raises:
        TooManyJobs, QuotaExceeded: the job was admitted by the workers, but the caller may not have it.
        RequestError: as `StoreClient.submit`; nothing is taken then.
        StoreError: one of the stores cannot be written. A job that is there all the same is charged at its
            end, where it has an idempotency key.
    """
    charged = _ChargedAdmission(admission, limits, caller)
    try:
        job_id = StoreClient(jobs, charged).submit(request, options)
    except BaseException:
        if charged.reservation is not None:
            limits.release(charged.reservation)
        raise
    if charged.reservation is not None:
        limits.bind(charged.reservation, job_id)
    return job_id


class _ChargedAdmission:
    """An admission that reserves what it promises; of one job."""

    def __init__(self, admission: Admits | None, limits: Limits, caller: Caller) -> None:
        self._admission, self._limits, self._caller = admission, limits, caller
        self.reservation: Reservation | None = None

    def admit(self, request: GenerateRequest, options: JobOptions) -> Accept | None:
        """See `Admits`."""
        promise = None if self._admission is None else self._admission.admit(request, options)
        self.reservation = self._limits.reserve(
            self._caller,
            options.idempotency_key or secrets.token_hex(16),
            None if promise is None else promise.predicted_s,
        )
        return promise
