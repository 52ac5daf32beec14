"""Takes jobs from a store, runs them on one device, and keeps the store true about them."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Protocol

import torch

from rushes.engine.amendments import Amendments, Sizes
from rushes.engine.announcements import ANNOUNCE_S
from rushes.engine.latent_shelf import LatentShelf
from rushes.engine.outlets import Courier, Outlet
from rushes.engine.recorder import Blobs, Recorder
from rushes.engine.resumption import CourierFactory, Resumption
from rushes.engine.run import Run
from rushes.engine.runner import Observer, Runner
from rushes.engine.scheduler import Scheduler
from rushes.engine.tasks import release_memory
from rushes.engine.watchdog import Watchdog
from rushes.errors import (
    DeadlineExceeded,
    EngineStopped,
    JobCancelled,
    LeaseLost,
    OutOfMemory,
    RushesError,
    StageError,
    StoreError,
)
from rushes.pipelines.model import Model
from rushes.stores.base import Heartbeat, JobRecord, JobStore, Lease
from rushes.stores.bell import Bell
from rushes.trace import under
from rushes.types import GenerateRequest, Lane, Preview

log = logging.getLogger(__name__)

HUNG_EXIT = 70
"""Exit status of a worker that its own watchdog ended."""

STORE_WAIT_S = 1.0
"""Between two tries of a store that cannot be read or written."""

BELL_S = 0.5
"""Between two looks whether there is still somebody to wake."""

LEAVING_S = 0.02
"""Between two looks whether a worker that goes holds jobs still."""

INTERACTIVE: tuple[Lane, ...] = ("interactive",)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPolicy:
    """How a worker behaves.

    Attributes:
        max_active: jobs held at a time; the others wait in the store, where another worker may take them.
        interactive_reserve: so many more, for interactive jobs only.
        checkpoint_every: solver steps between two checkpoints, and so the most that a death costs a job.
        lease_s: how long a worker may be silent before others may take its jobs.
        listen_s: between two looks for cancellations, deadlines and units that hang; they write nothing.
        poll_s: between two looks for new jobs.
        hang_factor: a unit that takes so many times what was predicted is taken for hung,
        hang_floor_s: but never before so many seconds. Time in which the whole process stood still (stopped
            by a signal, a machine asleep) does not count.
    """

    max_active: int = 8
    interactive_reserve: int = 4
    checkpoint_every: int = 5
    lease_s: float = 10.0
    listen_s: float = 0.25
    poll_s: float = 0.05
    hang_factor: float = 10.0
    hang_floor_s: float = 60.0

    @property
    def heartbeat_s(self) -> float:
        """Between two words to the store that the worker lives: two of them may be late."""
        return self.lease_s / 3


class Planner(Observer, Sizes, Protocol):
    """What a worker must know of times and memory."""

    @property
    def most_bytes(self) -> int:
        """Device memory of the largest job that it can hold; see `Amendments.most_bytes`."""

    def fits(self, request: GenerateRequest, beside: Sequence[GenerateRequest]) -> bool:
        """Whether the device has memory for it beside these."""


def owner_name() -> str:
    """A name for this process that no other has."""
    return f"{socket.gethostname()}-{os.getpid()}-{time.time_ns():x}"


class Worker:
    """One process's share of the work in a store.

    `start` returns at once; three kinds of threads run from then on: slots (see `Runner`), one that looks for
    jobs, and one that says that the worker is alive, hears of cancellations, and ends the process when a unit
    hangs.

    Args:
        outlet: opens the place where a job's frames go.
        on_preview: takes the previews of a job, by its id, on a thread of the engine's.
        most_elsewhere: see `Amendments`.
        announce: called every few seconds with the worker's name, to tell clients what it serves.
        on_hang: called when a unit hangs. Nothing but the end of the process stops a kernel; others then take
            the jobs.
        clock: seconds since the epoch, as the store counts them.
        shelf: where latents are kept and found; None keeps none, and every source is missed.
        bell: tells of writes to the store, new jobs among them; without it they are found within `poll_s`.

    Attributes:
        failed: set when a bug of ours has stopped it. `drain` then gives its jobs back.
    """

    def __init__(
        self,
        model: Model,
        store: JobStore,
        blobs: Blobs,
        outlet: Callable[[JobRecord], Outlet],
        scheduler: Scheduler,
        planner: Planner,
        *,
        policy: WorkerPolicy | None = None,
        owner: str | None = None,
        courier: CourierFactory = Courier,
        most_elsewhere: Callable[[], int] = lambda: 0,
        announce: Callable[[str], None] = lambda owner: None,
        on_hang: Callable[[], None] = lambda: os._exit(HUNG_EXIT),
        on_preview: Callable[[str, Preview], None] = lambda job_id, preview: None,
        clock: Callable[[], float] = time.time,
        shelf: LatentShelf | None = None,
        bell: Bell | None = None,
    ) -> None:
        self.owner = owner or owner_name()
        self._model, self._store = model, store
        self._planner, self._clock = planner, clock
        self._policy = policy or WorkerPolicy()
        self._stops, self._wakes = threading.Event(), threading.Event()
        self._amendments = Amendments(store, blobs.delete, planner, most_elsewhere)
        self._recorder = Recorder(
            store,
            blobs,
            model.identity,
            on_preview,
            retry_smaller=self._amendments.retry_smaller,
            on_end=self._wakes.set,
            shelf=shelf,
        )
        self._resumption = Resumption(
            self.owner,
            model,
            store,
            blobs,
            self._recorder,
            planner,
            outlet,
            courier=courier,
            clock=clock,
            shelf=shelf,
        )
        self._beating = threading.Lock()
        self._beaten_at = (-inf, -inf)
        self._announce, self._on_hang = announce, on_hang
        self._watchdog = Watchdog(self._policy.hang_factor, self._policy.hang_floor_s)
        self._runner = Runner(
            model,
            scheduler,
            self._recorder,
            planner,
            may_begin=self._has_room,
            checkpoint_every=self._policy.checkpoint_every,
        )
        self.failed = threading.Event()
        self._threads = [
            threading.Thread(target=self._watched, args=(loop,), name=name, daemon=True)
            for name, loop in (("leases", self._look_for_jobs), ("heartbeat", self._stay_alive))
        ]
        if bell is not None:
            self._threads.append(
                threading.Thread(target=self._hear_of, args=(bell,), name="bell", daemon=True)
            )

    @property
    def runs(self) -> dict[str, Run]:
        """Jobs that it has and that have not ended, by id."""
        return self._runner.runs

    def start(self) -> None:
        """Begin to take jobs."""
        self._runner.start()
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look for jobs now, as there is a new one."""
        self._wakes.set()

    def hear(self) -> None:
        """Look now for jobs that are to be cancelled, or that others have taken. Raises `StoreError`."""
        self._heed(self._store.hear(self._recorder.leases))

    def drain(self) -> None:
        """Take no more jobs, finish the units that run, save every run and give its job back to the store."""
        self._stop()
        for run in list(self._runner.runs.values()):
            self._save(run)
            # Behind the frames that are still to be written.
            run.courier.send(partial(self._runner.end, run.id, EngineStopped("the worker is going")))
        self._wait()

    def end(self) -> None:
        """Take no more jobs, finish the units that run, and cancel every run."""
        self._stop()
        for job_id in self._runner.runs:
            self._runner.end(job_id, JobCancelled("the engine is going"))
        self._wait()

    def abandon(self) -> None:
        """`end` after a hang: waits for nothing. The hung unit's thread keeps what it holds."""
        self._stops.set()
        self._wakes.set()
        self._runner.stop(waits=False)
        for job_id in self._runner.runs:
            self._runner.end(job_id, JobCancelled("the engine is going"))
            self._recorder.let_go(job_id)  # or it would be kept alive

    def _stop(self) -> None:
        self._stops.set()
        self._wakes.set()
        self._threads[0].join()
        self._runner.stop()

    def _save(self, run: Run) -> None:
        try:
            if not run.is_over:
                with under(run.span):
                    self._recorder.saved(run)
        except Exception as error:  # it goes back to the queue with its last checkpoint
            log.warning("job %s: not saved: %s", run.id, error)

    def _wait(self) -> None:
        for run in list(self._runner.runs.values()):
            run.courier.join()
        self._threads[1].join()

    def _hear_of(self, bell: Bell) -> None:
        """Until the worker goes; nobody waits for this thread, which may be in the middle of a wait."""
        while not self._stops.is_set():
            if bell.wait(BELL_S):
                self._wakes.set()

    def _watched(self, loop: Callable[[], None]) -> None:
        """A loop that no bug ends unseen: the other one would keep the jobs leased, and nothing would run."""
        try:
            loop()
        except Exception:
            log.critical("a thread of the worker ended by a bug", exc_info=True)
            self.failed.set()

    # The thread that looks for jobs.

    def _look_for_jobs(self) -> None:
        while not self._stops.is_set():
            if self._runner.failure is not None:
                self.failed.set()
                return
            try:
                found = self._take()
            except StoreError as error:
                log.error("no jobs can be taken: %s", error)
                self._stops.wait(STORE_WAIT_S)
                continue
            if not found:
                self._wakes.wait(self._policy.poll_s)
                self._wakes.clear()

    def _take(self) -> bool:
        """Lease one job if there is room for it; whether there was one. One at a time, so that workers share
        what waits."""
        active = sum(not run.is_over for run in self._runner.runs.values())
        room = self._policy.max_active - active
        if room + self._policy.interactive_reserve <= 0:
            return False
        # After a clock's jump or a long sleep its own leases may have run out: it would take its own jobs.
        self._beat_if_due()
        records = self._store.lease(
            self.owner,
            pipelines=(self._model.rules.name,),
            limit=1,
            ttl_s=self._policy.lease_s,
            lanes=INTERACTIVE if room <= 0 else (),
            most_bytes=self._amendments.most_bytes(self._planner.most_bytes),
        )
        for record in records:
            self._accept(record)
        return bool(records)

    def _accept(self, record: JobRecord) -> None:
        lease = Lease(job_id=record.id, owner=self.owner, token=record.token)
        if record.id in self._runner.runs:
            self._runner.end(record.id, LeaseLost(f"job {record.id}: its lease ran out"))
            self._store.release(lease)
            return
        self._recorder.hold(lease)
        try:
            deadline_s = record.options.deadline_s
            if deadline_s is not None and self._clock() > record.created_at + deadline_s:
                raise DeadlineExceeded(f"not begun within {deadline_s:g} s")
            fitted = self._amendments.fitted(lease, record)
            if fitted is None:
                self._recorder.let_go(record.id)
                return
            run = self._take_up(fitted)
        except Exception as error:  # the border to one job: whatever it is, the others are still served
            self._recorder.refuse(record.id, _refusal(error))
            return
        self._runner.add(run)

    def _take_up(self, record: JobRecord) -> Run:
        """The run of a job. What its checkpoint needs of the device may be there once what others have freed
        is given back."""
        try:
            return self._resumption.run_of(record, self._runner.courier_failed)
        except torch.OutOfMemoryError:
            log.warning("job %s: no memory to take it up, once more", record.id)
        release_memory()
        return self._resumption.run_of(record, self._runner.courier_failed)

    def _has_room(self, run: Run, begun: Sequence[Run]) -> bool:
        return self._planner.fits(run.job.request, [other.job.request for other in begun])

    # The thread that stays alive.

    def _stay_alive(self) -> None:
        announced_at = looked_at = -ANNOUNCE_S
        while not self._stops.is_set() or self._recorder.leases:
            now = time.monotonic()
            self._look_for_hangs(min(now - looked_at, 1.0))
            looked_at = now
            self._runner.expire()
            try:
                if not self._beat_if_due():
                    self.hear()
                if now > announced_at + ANNOUNCE_S:
                    self._announce(self.owner)
                    announced_at = now
            except StoreError as error:
                log.error("no heartbeat: %s", error)
                time.sleep(STORE_WAIT_S)
            self._rest()

    def _rest(self) -> None:
        if self._stops.is_set():  # what is held is being brought to its end
            time.sleep(min(self._policy.listen_s, LEAVING_S))
        else:
            self._stops.wait(self._policy.listen_s)

    def _beat_if_due(self) -> bool:
        """Say that the worker lives, if the last word was too long ago; whether it was."""
        with self._beating:
            at = (time.monotonic(), self._clock())
            since = [now - then for now, then in zip(at, self._beaten_at, strict=True)]
            # Leases are counted by a clock that can be set: one that went back or leapt asks for a new word.
            if all(0 <= seconds < self._policy.heartbeat_s for seconds in since):
                return False
            self._beat()
            self._beaten_at = at
            return True

    def _beat(self) -> None:
        leases = self._recorder.leases
        if leases:
            self._heed(self._store.heartbeat(self.owner, leases, ttl_s=self._policy.lease_s))

    def _heed(self, heard: Heartbeat) -> None:
        for job_id in heard.lost:
            self._runner.end(job_id, LeaseLost(f"job {job_id}: another worker has it"))
        for job_id in heard.cancelled:
            self._runner.cancel(job_id)

    def _look_for_hangs(self, seconds: float) -> None:
        """Count the seconds since the last look to every unit that runs now."""
        for unit, watched_s in self._watchdog.look(self._runner.in_flight, seconds):
            log.critical("%s of %s hangs since %.0f s", unit.stage, unit.job_ids, watched_s)
            self._on_hang()


def _refusal(error: Exception) -> RushesError:
    """The error with which a job ends that could not be taken up."""
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(f"no memory to take it up, tried twice: {error}")
    return error if isinstance(error, RushesError) else StageError(f"{type(error).__name__}: {error}")
