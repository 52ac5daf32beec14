"""Runs many jobs on one device, unit by unit, in the order that the scheduler says."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch

from rushes.engine.delivery import Delivery, Listener
from rushes.engine.run import Run
from rushes.engine.scheduler import Scheduler
from rushes.engine.slots import Slot, slots_of
from rushes.engine.spans import is_waiting, open_request, work_for
from rushes.engine.tasks import InFlight, Task, final_error, is_memory, release_memory
from rushes.engine.waiting import MayBegin, WaitingRoom
from rushes.errors import DeadlineExceeded, EngineStopped, JobCancelled
from rushes.pipelines.model import Model
from rushes.stages.base import BatchKey, Stage
from rushes.trace import end, under

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Who learns from what units took."""

    def observe(self, runs: Sequence[Run], key: BatchKey, seconds: float, begun: Sequence[Run]) -> None:
        """A batch of one unit each took so long, while the device held what has begun."""


class Runner:
    """Threads that run batches, one for each slot of the device. All methods may be called from any thread.

    Args:
        model: its networks are shared by all runs.
        may_begin: whether the device has room for a run beside those that have begun; asked again when one
            of these ends.
        checkpoint_every: solver steps between two calls of `Listener.saved`; 0 for none.
        clock: seconds, never turned back.

    Attributes:
        failure: what stopped it, a bug of ours; None while all is well.
    """

    def __init__(
        self,
        model: Model,
        scheduler: Scheduler,
        listener: Listener,
        observer: Observer,
        *,
        may_begin: MayBegin = lambda run, begun: True,
        checkpoint_every: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline = model.pipeline
        self._scheduler, self._listener, self._observer = scheduler, listener, observer
        self._delivery = Delivery(model, listener, checkpoint_every)
        self._clock = clock
        self._runs: dict[str, Run] = {}
        self._waiting = WaitingRoom(may_begin)
        self._is_silent = False  # a unit runs that nothing may run beside
        self._running: dict[str, InFlight] = {}
        self._changed = threading.Condition()
        self._num_changes = 0
        self._stops = False
        self.failure: Exception | None = None
        self.slots = slots_of(model.device)
        self._threads = [
            threading.Thread(target=self._work, args=(slot,), name=f"slot-{slot.name}", daemon=True)
            for slot in self.slots
        ]

    def start(self) -> None:
        """Begin to run what is and will be added."""
        for thread in self._threads:
            thread.start()

    def stop(self, *, waits: bool = True) -> None:
        """Wait for the units that run, and run no others. Runs keep their state.

        Args:
            waits: False where a unit hangs, for which nothing can wait.
        """
        with self._changed:
            self._stops = True
            self._tell_slots()
        for thread in self._threads if waits else ():
            if thread.is_alive():
                thread.join()

    @property
    def runs(self) -> dict[str, Run]:
        """By id, those that have not ended."""
        with self._changed:
            return dict(self._runs)

    @property
    def in_flight(self) -> list[InFlight]:
        """Units that are running now. Takes no lock: a watchdog must see what holds one."""
        return list(self._running.copy().values())

    def add(self, run: Run) -> None:
        """Schedule a run as soon as there is room for it; its job may be anywhere on its way."""
        with self._changed:
            self._runs[run.id] = run
            open_request(run, self._clock())
            self._waiting.park(run)
            self._begin_waiting()

    def end(self, job_id: str, error: Exception) -> None:
        """End a run, at once or when the unit that runs it is over. Unknown ids are ignored."""
        with self._changed:
            run = self._runs.get(job_id)
            if run is None or run.is_over:
                return
            run.ending = run.ending or error
            if not self._is_running(run):
                self._drop(run)
                self._begin_waiting()

    def expire(self) -> None:
        """End the runs whose deadline has passed, those that wait too."""
        for run in self.runs.values():
            if self._is_late(run):
                self.end(run.id, _late(run))

    def cancel(self, job_id: str) -> None:
        """`end` with `JobCancelled`."""
        self.end(job_id, JobCancelled(f"job {job_id} was cancelled"))

    def run_one(self, slot: Slot) -> bool:
        """Run one batch of the slot's stages in this thread; False when there is none now."""
        with self._changed:
            task = self._take(slot)
        if task is None:
            return False
        with work_for(task.runs, task.stage.name):
            error = task.prepare()
            begin = self._begin(slot)
            error = error or task.run(slot)
            self._settle(slot, task, self._clock() - begin, error)
        return True

    # The loop of a slot.

    def _work(self, slot: Slot) -> None:
        # torch gives a new thread its number of OpenMP threads when first asked for it; matmuls do not ask,
        # and would add up in another order than everywhere else.
        torch.get_num_threads()
        try:
            while not self._stops:
                seen = self._num_changes
                if not self.run_one(slot):
                    with self._changed:
                        self._changed.wait_for(partial(self._has_changed, seen))
        except Exception as error:  # our own bug: no job can be trusted to this runner any more
            log.critical("the runner stops", exc_info=error)
            self._fail(slot, error)

    def _fail(self, slot: Slot, error: Exception) -> None:
        with self._changed:
            self.failure = error
            self._stops = True
            self._running.pop(slot.name, None)
            self._tell_slots()
        for job_id in self.runs:
            self.end(job_id, EngineStopped(f"a bug of the engine: {type(error).__name__}: {error}"))

    def _has_changed(self, seen: int) -> bool:
        return self._stops or self._num_changes != seen

    def _tell_slots(self) -> None:
        """There may be something to do; the lock is held."""
        self._num_changes += 1
        self._changed.notify_all()

    def _take(self, slot: Slot) -> Task | None:
        if self._is_silent:
            return None
        task = self._lonely_task(slot) if self._waiting.wants_silence else self._batch_task(slot)
        if task is not None:
            self._is_silent = task.batch is None
            self._running[slot.name] = task.in_flight()
        return task

    def _batch_task(self, slot: Slot) -> Task | None:
        batch = self._scheduler.next(self._clock(), slot.stages)
        if batch is None:
            return None
        runs = [self._runs[job_id] for job_id in batch.job_ids]
        is_crowded = self._scheduler.waits_beside(batch)
        for run in runs:
            run.job.is_crowded = is_crowded
        return Task(
            runs=runs, stage=self._stage(runs[0]), key=batch.key, predicted_s=batch.predicted_s, batch=batch
        )

    def _lonely_task(self, slot: Slot) -> Task | None:
        """The run that waits for an idle device, once it is idle and this slot takes its stage."""
        run = self._waiting.lonely()
        if run is None or self._running or self._stage(run).name not in slot.stages:
            return None
        self._waiting.remove(run)
        run.job.is_crowded = True  # a unit that runs ahead would still run when the others may again
        ticket = run.ticket(self._key(run))
        return Task(runs=[run], stage=self._stage(run), key=ticket.key, predicted_s=ticket.unit_s)

    def _begin(self, slot: Slot) -> float:
        begin = self._clock()
        with self._changed:
            self._running[slot.name] = replace(self._running[slot.name], began_at=begin)
        return begin

    def _settle(self, slot: Slot, task: Task, seconds: float, error: Exception | None) -> None:
        if error is None:
            self._report(task, seconds)
        elif is_memory(error):
            release_memory()
        for run in task.runs:
            self._begin_stage(run)
        with self._changed:
            del self._running[slot.name]
            self._is_silent = False
            if task.batch is not None:
                self._scheduler.done(task.batch, seconds)
            for run in task.runs:
                if error is not None:
                    self._judge(run, task, error)
                self._go_on(run)
            self._begin_waiting()
            self._tell_slots()

    def _report(self, task: Task, seconds: float) -> None:
        """Pass on what a unit made. What goes wrong here is the affair of the run that it went wrong for."""
        for run in task.runs:
            try:
                self._delivery.report(run, task.stage, seconds / len(task.runs))
            except Exception as error:  # no memory for a preview or a checkpoint, a lost lease
                run.ending = run.ending or final_error(task.stage, error.with_traceback(None))
        try:
            self._observer.observe(task.runs, task.key, seconds, self._begun())
        except Exception:  # a cost model that cannot learn still predicts
            log.exception("nothing learned from a unit of %s", task.stage.name)

    def _begun(self) -> Sequence[Run]:
        """Runs that hold memory of the device."""
        with self._changed:
            return self._waiting.begun(list(self._runs.values()))

    def _begin_stage(self, run: Run) -> None:
        """Make the first state of the next stage: to draw a clip's noise takes tens of milliseconds, in
        which no slot could go on if the lock were held."""
        with suppress(Exception):  # raised again, and minded, when the run is scheduled
            if self._pipeline.current(run.job) is not None:
                self._key(run)

    # What follows a unit; the lock is held.

    def _begin_waiting(self) -> None:
        """Begin what there is room for now."""
        while (run := self._waiting.next(list(self._runs.values()))) is not None:
            self._go_on(run)

    def _judge(self, run: Run, task: Task, error: Exception) -> None:
        """What a failed unit means for one of its runs: another try alone, or the end."""
        if len(task.runs) == 1 and (not is_memory(error) or run.num_ooms):
            run.ending = run.ending or final_error(task.stage, error)
            return
        log.warning("job %s: %s failed (%s); it goes on alone", run.id, task.stage.name, error)
        run.is_alone = True
        if is_memory(error):
            run.num_ooms += 1
            if run.id in self._scheduler:
                self._scheduler.remove(run.id)
            self._waiting.isolate(run)

    def _go_on(self, run: Run) -> None:
        """Put a run back where its next unit is chosen, or bring it to its end."""
        self._delivery.send_frames(run)
        if run.ending is None and self._is_late(run):
            run.ending = _late(run)
        if run.ending is not None:
            self._drop(run)
        elif self._pipeline.current(run.job) is None:
            self._complete(run)
        elif run not in self._waiting:
            self._schedule(run)
        self._tell_slots()

    def _is_late(self, run: Run) -> bool:
        return run.deadline_at is not None and self._clock() > run.deadline_at

    def _schedule(self, run: Run) -> None:
        is_waiting(run)
        try:
            ticket = run.ticket(self._key(run))
        except Exception as error:  # a job's first state is made here, and may find no memory
            run.ending = final_error(self._stage(run), error.with_traceback(None))
            self._drop(run)
            return
        if run.id in self._scheduler:
            self._scheduler.update(
                run.id, key=ticket.key, unit_s=ticket.unit_s, remaining_s=ticket.remaining_s
            )
        else:
            self._scheduler.add(ticket)

    def _key(self, run: Run) -> BatchKey:
        return self._stage(run).key(run.job)

    def _stage(self, run: Run) -> Stage:
        stage = self._pipeline.current(run.job)
        assert stage is not None, "a run without work is not to be scheduled"
        return stage

    def _is_running(self, run: Run) -> bool:
        return any(run.id in unit.job_ids for unit in self._running.values())

    def _forget(self, run: Run) -> None:
        run.is_over = True
        if run.id in self._scheduler:
            self._scheduler.remove(run.id)
        self._waiting.remove(run)
        run.free()

    def _complete(self, run: Run) -> None:
        self._forget(run)
        run.courier.send(partial(self._hand_over, run))

    def _hand_over(self, run: Run) -> None:
        """On the courier's thread, behind the last frames."""
        with under(run.span):
            self._delivery.finish(run)
        if run.span is not None:
            run.span.note(predicted_s=run.predicted_s, actual_s=run.device_s)
        end(run.span)
        self._leave(run)

    def _drop(self, run: Run) -> None:
        error = run.ending
        assert error is not None
        self._forget(run)
        run.courier.close(partial(self._tell_end, run, error))

    def _tell_end(self, run: Run, error: Exception) -> None:
        try:
            run.outlet.abort()
        except Exception as failure:  # the border to files and stores: the job ends all the same
            log.error("job %s: its output could not be removed: %r", run.id, failure)
        with under(run.span):
            self._listener.ended(run, error)
        end(run.span, error)
        self._leave(run)

    def _leave(self, run: Run) -> None:
        with self._changed:
            self._runs.pop(run.id, None)
            self._tell_slots()
        run.ending = None  # whose traceback may hold the run
        run.courier.close()

    def courier_failed(self, job_id: str, error: Exception) -> None:
        """For a run's courier: what it could not deliver."""
        with self._changed:
            run = self._runs.get(job_id)
            if run is None or not run.is_over:
                self.end(job_id, error)
                return
        run.courier.close(partial(self._tell_end, run, error))


def _late(run: Run) -> DeadlineExceeded:
    return DeadlineExceeded(f"not finished within {run.options.deadline_s:g} s")
