"""What a key may take: requests a minute, jobs at once, device seconds a day."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rushes.errors import RateLimited, RushesError, UnknownJob
from rushes.server.auth import Caller
from rushes.server.rates import LocalRate, Rate, RedisRate
from rushes.stores.accounts import AccountStore
from rushes.stores.base import JobRecord, JobStore
from rushes.stores.charges import Reservation
from rushes.types import FINAL

log = logging.getLogger(__name__)

KEEP_DAYS = 30
"""Charges of ended jobs are kept for so long; what they add up to, longer."""

PATIENCE_S = 20.0
"""After which a round of `Limits.reconcile` ends at the next job that fails: a store that is away takes its
time to say so for each."""


class Limits:
    """Synchronous and quick: a request costs one round trip to Redis, if there is one, a job three small
    transactions. Safe for threads; several gateways of one store count together.

    A gateway's order: `check_rate` for every request; `reserve` before a job is created, then `bind` when it
    is there, or `release` when it is not; `ended` when the job's
    end is heard, and before it is deleted; `reconcile` at the start and now and then, for ends that nobody
    heard.

    Args:
        redis: URL; None: each gateway counts requests by itself.
        on_end: called with the record of a job before its charge is settled, until that has succeeded; by
            more than one gateway, maybe. What it raises, `ended` raises.
        clock: seconds since the epoch; decides which day it is. No limit depends on it otherwise.

    Raises:
        StoreError: from everything but `check_rate`: the account store cannot be used.
    """

    def __init__(
        self,
        accounts: AccountStore,
        *,
        redis: str | None = None,
        on_end: Callable[[JobRecord], None] = lambda record: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._charges = accounts.charges
        self._on_end = on_end
        self._clock = clock
        self.rate: Rate = LocalRate() if redis is None else RedisRate(redis)

    def may_wait(self, caller: Caller) -> bool:
        """Whether `check_rate` asks Redis for this caller: not to be called on an event loop then."""
        return isinstance(self.rate, RedisRate) and caller.limits.requests_per_minute is not None

    def check_rate(self, caller: Caller) -> None:
        """Count one request. Raises `RateLimited`; such a request is not counted."""
        limit = caller.limits.requests_per_minute
        if limit is None:
            return
        window = self.rate.hit(caller.key_id, limit)
        if window is not None:
            raise RateLimited(
                f"this key made {window.used} requests within the last minute, and it may make {limit}",
                retry_after_s=window.wait_s(limit),
                limit=limit,
                used=window.used,
                reset_s=window.reset_s,
            )

    def reserve(self, caller: Caller, job_key: str, predicted_s: float | None) -> Reservation:
        """Take a slot and device seconds for one job. Without `bind`, it is free again after a minute.

        Args:
            job_key: of the job before it has an id: its idempotency key, one made up for it otherwise. While
                that job is queued or running, the same key takes nothing again.
            predicted_s: None where nobody can tell.

        Raises:
            TooManyJobs, QuotaExceeded: nothing is taken.
        """
        return self._charges.reserve(
            key_id=caller.key_id,
            tenant=caller.tenant,
            job_key=job_key,
            predicted_s=predicted_s,
            limits=caller.limits,
            now=self._clock(),
        )

    def bind(self, reservation: Reservation, job_id: str) -> None:
        """The job was created, or it is that of an earlier call, which is not charged twice."""
        self._charges.bind(reservation, job_id)

    def release(self, reservation: Reservation) -> None:
        """No job was created."""
        self._charges.release(reservation)

    def settle(self, job_id: str, actual_s: float | None) -> None:
        """The job has ended and took `actual_s` device seconds; None where nobody can tell: it then counts as
        predicted. It never counts for more than was predicted. The first gateway that says so is heard."""
        self._charges.settle(job_id, actual_s, now=self._clock())

    def ended(self, record: JobRecord) -> None:
        """`settle` by what the job's record tells; also for one whose gateway died before `bind`, where its
        idempotency key was the reservation's `job_key`."""
        if record.options.idempotency_key is not None:
            self._charges.claim(
                record.id, tenant=record.options.tenant, job_key=record.options.idempotency_key
            )
        charge = self._charges.get(record.id)
        if charge is not None and charge.ended_at is None:
            self._on_end(record)
            self._charges.settle(
                record.id, spent_s(record), now=self._clock(), is_whole=record.status == "completed"
            )

    def reconcile(self, jobs: JobStore) -> int:
        """Settle jobs whose end no gateway heard, and forget old charges; returns how many were settled. One
        that cannot be, its record being damaged, is logged and holds up no other.

        Raises:
            StoreError: the account store cannot be used; or jobs fail after `PATIENCE_S`, so it seems.
        """
        num, gives_up_at = 0, time.monotonic() + PATIENCE_S
        for job_id in self._charges.open_jobs():
            try:
                num += self._reconciled(jobs, job_id)
            except RushesError as error:
                if time.monotonic() > gives_up_at:
                    raise
                log.warning("job %s will be settled later: %s", job_id, error)
            except Exception:  # a bug with one job must not hold up everybody's bills
                log.exception("job %s cannot be settled", job_id)
        self._charges.sweep(keep_days=KEEP_DAYS, now=self._clock())
        return num

    def _reconciled(self, jobs: JobStore, job_id: str) -> bool:
        """Whether an open charge is settled now."""
        try:
            record = jobs.get(job_id)
        except UnknownJob:
            self.settle(job_id, None)
            return True
        if record.status in FINAL:
            self.ended(record)
        return record.status in FINAL

    def close(self) -> None:
        self.rate.close()


def spent_s(record: JobRecord) -> float | None:
    """Device seconds of an ended job: what it took; nothing where it never began; otherwise, for a failed or
    cancelled one, no more than was predicted and than passed since it began; None where nobody can tell."""
    if record.actual_s is not None:
        return record.actual_s
    if record.started_at is None or record.finished_at is None:
        return 0.0 if record.started_at is None else None
    passed_s = max(0.0, record.finished_at - record.started_at)
    return passed_s if record.predicted_s is None else min(record.predicted_s, passed_s)
