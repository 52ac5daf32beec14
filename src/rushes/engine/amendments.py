"""What becomes of a leased job that does not fit its worker: a larger worker's, a smaller clip, or an end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from rushes.engine.degrade import changes_between
from rushes.engine.run import Forecast
from rushes.errors import OutOfMemory, RushesError, StoreError
from rushes.stores.base import JobRecord, JobStore, Lease
from rushes.types import GenerateRequest

log = logging.getLogger(__name__)


class Sizes(Protocol):
    """What is known of requests and the device: `rushes.engine.planner.CostPlanner`."""

    def check(self, request: GenerateRequest) -> None:
        """Raises `OutOfMemory` for a request that does not fit the device even alone; says what would."""

    def forecast(self, request: GenerateRequest) -> Forecast:
        """Device seconds of this request, alone."""

    def needed_bytes(self, request: GenerateRequest) -> int:
        """Of device memory, with nothing beside it."""

    def smaller(
        self, asked: GenerateRequest, ran_out: GenerateRequest | None = None
    ) -> GenerateRequest | None:
        """The request with the fewest cuts that fits; None when none within the limits of degradation does.

        Args:
            ran_out: found no memory, although it should have fit: the answer needs clearly less.
        """


class Amendments:
    """Fits leased jobs to a device.

    Args:
        delete: removes a checkpoint.
        most_elsewhere: device memory of the largest other worker that serves the same jobs; 0 for none.
    """

    def __init__(
        self,
        store: JobStore,
        delete: Callable[[str], None],
        sizes: Sizes,
        most_elsewhere: Callable[[], int] = lambda: 0,
    ) -> None:
        self._store, self._delete, self._sizes = store, delete, sizes
        self._most_elsewhere = most_elsewhere

    def most_bytes(self, own: int) -> int | None:
        """What a job may need that this device, with `own` bytes, should take; None for any job.

        Larger ones are left alone only while a larger worker is there. The largest takes all, also those
        that it has to make smaller or to refuse, so that no job is left to nobody.
        """
        return own if self._most_elsewhere() > own else None

    def fitted(self, lease: Lease, record: JobRecord) -> JobRecord | None:
        """The job as this device can run it; None when it was left to a larger one. Raises `OutOfMemory`."""
        try:
            self._sizes.check(record.request)
        except OutOfMemory:
            needed = self._sizes.needed_bytes(record.request)
            if needed <= self._most_elsewhere():
                self._store.release(lease, needs_bytes=needed)
                return None
            if record.options.degrade and self._make_smaller(lease):
                return self._store.get(record.id)
            raise
        return record

    def retry_smaller(self, lease: Lease, ran_out: GenerateRequest) -> bool:
        """After a job found no memory even alone: whether it can begin anew as a smaller clip. Never raises;
        the job goes on being held."""
        try:
            return self._make_smaller(lease, ran_out)
        except RushesError as error:
            log.warning("job %s: not made smaller: %s", lease.job_id, error)
            return False

    def _make_smaller(self, lease: Lease, ran_out: GenerateRequest | None = None) -> bool:
        # Limits are parts of what was asked for, however often a job is made smaller.
        asked = self._store.asked(lease.job_id)
        smaller = self._sizes.smaller(asked, ran_out)
        if smaller is None:
            return False
        dropped = self._store.amend(
            lease,
            smaller,
            changes=changes_between(asked, smaller),
            predicted_s=self._sizes.forecast(smaller).total_s,
            needs_bytes=self._sizes.needed_bytes(smaller),
        )
        if dropped is not None:
            self._forget(dropped)
        return True

    def _forget(self, checkpoint: str) -> None:
        try:
            self._delete(checkpoint)
        except StoreError as error:  # a sweep finds what is left
            log.warning("checkpoint %s stays: %s", checkpoint, error)
