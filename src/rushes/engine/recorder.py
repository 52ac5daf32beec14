"""Writes to the store what the runner tells about its runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from rushes.engine.latent_shelf import LatentShelf
from rushes.engine.run import Run
from rushes.errors import EngineStopped, JobCancelled, LeaseLost, OutOfMemory, RushesError, StoreError
from rushes.stages.job_state import pack, to_bytes
from rushes.stages.source import Snapshot
from rushes.stores.base import JobStore, Lease, Told
from rushes.trace import traced
from rushes.types import Frames, GenerateRequest, Json, Preview, Progress, fields_of

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

RETRY_S = (0.1, 0.5, 2.0)
"""Between two tries to write how a job ended."""


class Blobs(Protocol):
    """Where checkpoints and previews lie: `rushes.stores.disk.BlobFolder`."""

    def write(self, name: str, data: bytes) -> None:
        """All of it or nothing. Raises `StoreError`."""

    def read(self, name: str) -> bytes:
        """Raises `StoreError`."""

    def delete(self, name: str) -> None:
        """Missing is fine."""


class Recorder:
    """The runner's listener of a worker.

    Args:
        identity: of the model, kept in checkpoints and told with a result.
        on_preview: takes the previews of a job, by its id.
        retry_smaller: after a job that may be degraded found no memory even alone: whether it begins anew,
            smaller, when it is back in the queue.
        on_end: called when a run has left, so that there is room for another.
        shelf: where snapshots go; None for nowhere.
    """

    def __init__(
        self,
        store: JobStore,
        blobs: Blobs,
        identity: str,
        on_preview: Callable[[str, Preview], None] = lambda job_id, preview: None,
        *,
        retry_smaller: Callable[[Lease, GenerateRequest], bool] = lambda lease, request: False,
        on_end: Callable[[], None] = lambda: None,
        shelf: LatentShelf | None = None,
    ) -> None:
        self._shelf = shelf
        self._store, self._blobs, self._identity = store, blobs, identity
        self._on_preview, self._on_end, self._retry_smaller = on_preview, on_end, retry_smaller
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}
        self._num_saved: dict[str, int] = {}

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Of the runs that have not ended."""
        with self._lock:
            return tuple(self._leases.values())

    def hold(self, lease: Lease) -> None:
        """A run of this lease is about to begin."""
        with self._lock:
            self._leases[lease.job_id] = lease

    def tell(self, run_id: str, *told: Told) -> None:
        """Write events that a job can do without: a store that is full or away for a while costs no job."""
        lease = self._lease(run_id)
        try:
            if lease is not None and told:
                self._store.append_all(lease, told)
        except LeaseLost:
            raise
        except StoreError as error:
            log.warning("job %s: no %s event: %s", run_id, ", ".join(kind for kind, _ in told), error)

    def flushed(self, run: Run) -> None:
        """See `Listener`."""
        told, run.untold = run.untold, []
        self.tell(run.id, *told)

    def progressed(self, run: Run, progress: Progress) -> None:
        """See `Listener`."""
        run.untold.append(("progress", fields_of(progress)))

    def previewed(self, run: Run, preview: Preview) -> None:
        """See `Listener`."""
        self._on_preview(run.id, preview)
        run.untold.append(("preview", {"step": preview.step, "num_steps": preview.num_steps}))

    def delivered(self, run: Run, frames: Frames) -> None:
        """See `Listener`. Frames that an earlier life of the job has told of are not told again."""
        start, end = max(frames.start, run.num_delivered), frames.start + len(frames.frames)
        if start < end:
            run.untold.append(("frames", {"start": start, "num_frames": end - start}))

    def kept(self, run: Run, snapshot: Snapshot) -> None:
        """See `Listener`. A clip without a snapshot is still a clip."""
        if self._shelf is None or self._lease(run.id) is None:
            return
        try:
            name, size = self._shelf.keep(run.id, snapshot, run.job.request, run.options.tenant)
        except StoreError as error:
            log.warning("job %s: no snapshot: %s", run.id, error)
            return
        data: dict[str, Json] = {"step": snapshot.step, "sigma": snapshot.sigma, "name": name, "bytes": size}
        run.untold.append(("snapshot", data))

    def kept_final(self, run: Run, latents: Tensor) -> None:
        """See `Listener`."""
        if self._shelf is None or self._lease(run.id) is None:
            return
        try:
            self._shelf.keep_final(run.id, latents, run.job.request, run.options.tenant)
        except StoreError as error:
            log.warning("job %s: finished latents are not kept: %s", run.id, error)

    def missed(self, run_id: str, reason: str) -> None:
        """A run begins with noise instead of its source."""
        lease = self._lease(run_id)
        try:
            if lease is not None:
                self._store.miss_source(lease, reason=reason)
        except LeaseLost:
            raise
        except StoreError as error:
            log.warning("job %s: it is not told that its source was missed: %s", run_id, error)

    @traced("checkpoint")
    def saved(self, run: Run) -> None:
        """Write a checkpoint, here and now: what a death costs is then bounded by the time between two, and a
        slow reader of the frames delays none. Frames count as delivered when the outlet has taken them."""
        lease = self._lease(run.id)
        if lease is None:
            return
        packed = pack(run.job)
        packed = replace(packed, facts={**packed.facts, "num_delivered": run.num_delivered})
        number = self._num_saved[run.id] = self._num_saved.get(run.id, 0) + 1
        name = f"{run.id}-{lease.token}-{number}.safetensors"
        try:
            self._blobs.write(name, to_bytes(packed, run.job.request, self._identity))
            replaced = self._store.checkpoint(lease, name)
            if replaced is not None:
                self._blobs.delete(replaced)
        except LeaseLost:
            raise
        except StoreError as error:
            # A job without a checkpoint is still a job: a death would cost it more, nothing else.
            log.warning("job %s: no checkpoint: %s", run.id, error)
            self.tell(run.id, ("unsaved", {"reason": str(error)}))

    def completed(self, run: Run, result: str) -> None:
        """See `Listener`."""
        lease = self._lease(run.id)
        if lease is None:
            raise LeaseLost(f"job {run.id} is not held any more")
        data, identity = report(run), self._identity
        told, run.untold = run.untold, []
        _persist(
            lambda: self._store.finish(
                lease, result=result, actual_s=run.device_s, data=data, identity=identity, told=told
            )
        )
        self.let_go(run.id)
        self._forget_checkpoint(run)

    def ended(self, run: Run, error: Exception) -> None:
        """See `Listener`."""
        with suppress(LeaseLost):
            self.flushed(run)
        lease = self._lease(run.id)
        may_retry = isinstance(error, OutOfMemory) and run.options.degrade
        if may_retry and lease is not None and self._retry_smaller(lease, run.job.request):
            error = EngineStopped("it begins anew, smaller")
        self.refuse(run.id, error)

    def refuse(self, run_id: str, error: Exception) -> None:
        """End a job that is held without a result. Never raises."""
        lease = self.let_go(run_id)
        if lease is None or isinstance(error, LeaseLost):
            return
        try:
            _persist(lambda: self._write_end(lease, error))
        except LeaseLost:
            return
        except RushesError as failure:
            # The lease runs out, and whoever takes the job then goes on from its last checkpoint.
            log.error("job %s: its end could not be written: %s", run_id, failure)

    def _write_end(self, lease: Lease, error: Exception) -> None:
        if isinstance(error, JobCancelled):
            self._store.cancelled(lease)
        elif isinstance(error, EngineStopped | StoreError):
            self._store.release(lease)
        else:
            self._store.fail(lease, error=str(error), error_kind=type(error).__name__)

    def _forget_checkpoint(self, run: Run) -> None:
        """The job is completed, whatever happens here; `Workplace.sweep` finds what is left."""
        try:
            record = self._store.get(run.id)
            if record.checkpoint is not None:
                self._blobs.delete(record.checkpoint)
        except RushesError as error:
            log.warning("job %s: its checkpoint stays: %s", run.id, error)

    def _lease(self, run_id: str) -> Lease | None:
        with self._lock:
            return self._leases.get(run_id)

    def let_go(self, run_id: str) -> Lease | None:
        """Forget a run; the lease by which it was held."""
        with self._lock:
            self._num_saved.pop(run_id, None)
            lease = self._leases.pop(run_id, None)
        self._on_end()
        return lease


def _persist(write: Callable[[], None]) -> None:
    """Try again for a while: what says how a job ended is worth waiting for."""
    for delay_s in RETRY_S:
        try:
            return write()
        except LeaseLost:
            raise
        except StoreError as error:
            log.warning("once more in %g s: %s", delay_s, error)
            time.sleep(delay_s)
    return write()


def report(run: Run) -> dict[str, Json]:
    """What the `completed` event tells: where the time went, and how that compares with the prediction."""
    timings = [fields_of(timing) for timing in run.job.timings.values()]
    return {
        "seed": run.job.request.sampling.seed,
        "timings": timings,
        "forwards": fields_of(run.job.forwards),
        "predicted_s": run.predicted_s,
        "actual_s": run.device_s,
    }
