"""The engine in this process: the same client, store and worker as over processes, with frames at hand."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType

from rushes.engine.client import StoreClient
from rushes.engine.outlets import Outlet
from rushes.engine.planner import RESERVE_BYTES, planner_for
from rushes.engine.scheduler import Policy, Scheduler
from rushes.engine.worker import Worker, WorkerPolicy
from rushes.errors import EngineError
from rushes.pipelines.model import Model
from rushes.stores.base import JobRecord
from rushes.stores.disk import BlobFolder
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import FINAL, Frames, GenerateRequest, JobEvent, JobOptions, Preview

CHECK_S = 0.5
"""Between two looks at what tells nobody: an engine that failed, a lease that ran out."""


class CallbackOutlet:
    """Hands frames to a function of the caller's, on a thread of the engine's."""

    def __init__(self, on_frames: Callable[[Frames], None]) -> None:
        self._on_frames = on_frames

    def write(self, frames: Frames) -> None:
        """See `Outlet`."""
        self._on_frames(frames)

    def finish(self) -> str:
        """Nothing is stored."""
        return ""

    def committed(self) -> None:
        """Nothing is left to do."""

    def abort(self) -> None:
        """Nothing was stored."""


class Changes:
    """A `Watch` of a store that only this process writes: woken by every write.

    Args:
        check: raises what ends the waiting; asked every `CHECK_S` beside.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._changed = threading.Condition()
        self._number = 0

    def tell(self) -> None:
        """The store was written."""
        with self._changed:
            self._number += 1
            self._changed.notify_all()

    def mark(self) -> int:
        """See `Watch`."""
        return self._number

    def wait(self, mark: int) -> None:
        """See `Watch`."""
        with self._changed:
            self._changed.wait_for(lambda: self._number != mark, CHECK_S)
        self._check()


class LocalEngine:
    """An `EngineClient` and the worker behind it, in one process, with jobs in memory.

    A context manager: leaving it cancels what still runs and waits for the unit in work, but for none that
    hangs.

    Args:
        reserve_bytes: device memory that is always kept free; None for 2 GB on a GPU, and nothing of a host
            that other programs share anyway.
        on_preview: takes the previews of a job, by its id, on a thread of the engine's.
        clock: dates jobs and events, in seconds.

    Attributes:
        planner: what it expects of its device; it learns while jobs run.

    Example:
        >>> with LocalEngine(rushes.load("toy")) as engine:  # doctest: +SKIP
        ...     job_id = engine.submit(request, on_frames=show)
        ...     for event in engine.events(job_id):
        ...         print(event.kind)
    """

    def __init__(
        self,
        model: Model,
        *,
        policy: WorkerPolicy | None = None,
        reserve_bytes: int | None = None,
        scheduling: Policy | None = None,
        on_preview: Callable[[str, Preview], None] = lambda job_id, preview: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        scheduling = scheduling or Policy()
        if reserve_bytes is None:
            reserve_bytes = RESERVE_BYTES if model.device.type == "cuda" else 0
        planner = self.planner = planner_for(
            model, max_batch=scheduling.max_batch, reserve_bytes=reserve_bytes
        )
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rushes-"))
        changes = Changes(self._check)
        self._store = SqliteJobStore(":memory:", clock=clock, on_write=changes.tell)
        self._hung = threading.Event()
        self._stack.callback(self._close_store)
        self._client = StoreClient(self._store, watch=changes)
        self._lock = threading.Lock()
        self._outlets: dict[str, Outlet] = {}
        self._worker = Worker(
            model,
            self._store,
            BlobFolder(Path(folder)),
            self._outlet,
            Scheduler(scheduling, planner.batch_seconds),
            planner,
            policy=policy or WorkerPolicy(checkpoint_every=0, poll_s=CHECK_S),
            on_preview=on_preview,
            on_hang=self._hangs,
            clock=clock,
        )

    def __enter__(self) -> LocalEngine:
        self._worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if self._hung.is_set():
                self._worker.abandon()
            else:
                self._worker.end()

    def submit(
        self,
        request: GenerateRequest,
        options: JobOptions | None = None,
        *,
        outlet: Outlet | None = None,
        on_frames: Callable[[Frames], None] = lambda frames: None,
    ) -> str:
        """See `EngineClient.submit`.

        Args:
            outlet: where the frames go; None for `on_frames`, called with them in order on a thread of the
                engine's. An error that it raises fails the job.
        """
        with self._lock:
            job_id = self._client.submit(request, options)
            self._outlets.setdefault(job_id, outlet or CallbackOutlet(on_frames))
            self._forget_ended()
        self._worker.wake()
        return job_id

    def events(self, job_id: str, *, after: int = 0) -> Iterator[JobEvent]:
        """See `EngineClient.events`."""
        return self._client.events(job_id, after=after)

    def status(self, job_id: str) -> JobRecord:
        """See `EngineClient.status`."""
        return self._client.status(job_id)

    def cancel(self, job_id: str) -> JobRecord:
        """See `EngineClient.cancel`."""
        record = self._client.cancel(job_id)
        self._worker.hear()
        return record

    def _outlet(self, record: JobRecord) -> Outlet:
        with self._lock:  # the job may have been leased before `submit` returned
            return self._outlets[record.id]

    def _forget_ended(self) -> None:
        """Let go of the outlets of jobs that have ended: two are looked at, all in turn, since a submission
        must not look at all that wait. A job that leaves the worker may not have ended: one whose lease ran
        out begins anew, and asks again."""
        for job_id in list(islice(self._outlets, 2)):
            status, outlet = self._store.get(job_id).status, self._outlets.pop(job_id)
            if status not in FINAL:
                self._outlets[job_id] = outlet

    def _check(self) -> None:
        if self._worker.failed.is_set():
            raise EngineError("the engine stopped by a bug of its own, or a unit hangs; see the log")

    def _hangs(self) -> None:
        """The process is the caller's: it is not ended, nobody waits any more."""
        self._hung.set()
        self._worker.failed.set()

    def _close_store(self) -> None:
        if not self._hung.is_set():  # threads that nobody waits for may write to it still
            self._store.close()
