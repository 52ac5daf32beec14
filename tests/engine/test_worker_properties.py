"""Random arrivals, kills, cancels, clock jumps and faults on real workers, schedulers and one real store.

Threads are left out: the machine below runs a worker's parts one by one, in any order.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import torch
from engine_parts import FAST, FixedPlanner, KeptFrames
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from rushes.engine.client import StoreClient
from rushes.engine.scheduler import Policy, Scheduler
from rushes.engine.worker import Worker
from rushes.stores.base import MAX_DEATHS
from rushes.stores.disk import BlobFolder
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import FINAL, JobOptions
from tiny_parts import request, tiny_model

ROOM = 2
LEASE_S = 10.0


class InlineCourier:
    """A courier that brings everything at once."""

    is_last = True
    """Nothing waits behind a call that is made at once."""

    def __init__(self, name, on_error):
        self._on_error, self._is_closed = on_error, False

    def send(self, task, *, always=None):
        try:
            if not self._is_closed:
                task()
        except Exception as error:
            self._on_error(error)
        finally:
            if always is not None:
                always()

    def close(self, last=None):
        if not self._is_closed:
            self._is_closed = True
            if last is not None:
                last()

    def join(self):
        pass


@dataclass
class Life:
    """A worker process, as far as the store sees it."""

    worker: Worker
    is_alive: bool = True


class Engines(RuleBasedStateMachine):
    jobs = Bundle("jobs")

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.folder = tempfile.TemporaryDirectory()
        self.store = SqliteJobStore(":memory:", clock=lambda: self.now)
        self.client = StoreClient(self.store)
        self.blobs = BlobFolder(Path(self.folder.name))
        self.model = tiny_model()
        self.faults = 0
        self.plant_faults()
        self.lives = [self.new_life() for _ in range(2)]

    def teardown(self):
        self.finish_everything()
        self.store.close()
        self.folder.cleanup()

    def plant_faults(self):
        for stage in {id(s): s for s in (*self.model.pipeline._whole, *self.model.pipeline._causal)}.values():
            run = stage.run

            def faulty(jobs, run=run):
                if self.faults:
                    self.faults -= 1
                    raise torch.OutOfMemoryError("no memory")
                run(jobs)

            stage.run = faulty

    def new_life(self):
        planner = FixedPlanner(room=ROOM)
        worker = Worker(
            self.model,
            self.store,
            self.blobs,
            lambda record: KeptFrames(),
            Scheduler(Policy(max_batch=4), planner.batch_seconds),
            planner,
            policy=FAST,
            clock=lambda: self.now,
            courier=InlineCourier,
        )
        return Life(worker)

    @rule(
        target=jobs,
        lane=st.sampled_from(("interactive", "batch")),
        tenant=st.sampled_from("ab"),
        solver=st.sampled_from(("euler", "unipc")),
        causal=st.booleans(),
    )
    def submit(self, lane, tenant, solver, causal):
        asked = request(steps=2, solver=solver, mode="causal" if causal else "full")
        return self.client.submit(asked, JobOptions(lane=lane, tenant=tenant))

    @rule(number=st.integers(0, 1), units=st.integers(1, 6))
    def work(self, number, units):
        life = self.lives[number]
        life.worker._take()
        for _ in range(units):
            self.one_unit(life)

    def one_unit(self, life):
        runner = life.worker._runner
        return any(runner.run_one(slot) for slot in runner.slots)

    @rule(number=st.integers(0, 1))
    def kill(self, number):
        self.lives[number] = self.new_life()

    @rule(job=jobs)
    def cancel(self, job):
        self.client.cancel(job)

    @rule(seconds=st.sampled_from((-7200.0, -5.0, 0.5, 11.0, 7200.0)))
    def let_the_clock_jump(self, seconds):
        self.now += seconds

    @rule(times=st.integers(1, 3))
    def run_out_of_memory(self, times):
        self.faults = times

    @rule(number=st.integers(0, 1))
    def drain(self, number):
        """What SIGTERM does, without threads."""
        worker = self.lives[number].worker
        for run in list(worker.runs.values()):
            worker._save(run)
            worker._runner.end(run.id, _draining())
        self.lives[number] = self.new_life()

    @invariant()
    def memory_is_bounded(self):
        for life in self.lives:
            runs = life.worker.runs.values()
            waiting = life.worker._runner._waiting._parked
            assert sum(not run.is_over and run not in waiting for run in runs) <= ROOM

    @invariant()
    def every_job_ends_at_most_once(self):
        for record in self.store.jobs(limit=1000):
            ends = [event.kind for event in self.store.events(record.id) if event.kind in FINAL]
            assert ends == ([record.status] if record.status in FINAL else [])

    @precondition(lambda self: self.store.count() > 12)
    @rule()
    def finish_everything(self):
        """No job is lost: given time, each of them ends, for a reason that can be told."""
        self.faults = 0
        for _ in range(400):
            if all(record.status in FINAL for record in self.store.jobs(limit=1000)):
                break
            self.now += LEASE_S / 4
            for life in self.lives:
                while life.worker._take():
                    pass
                while self.one_unit(life):
                    pass
        for record in self.store.jobs(limit=1000):
            assert record.status in FINAL, f"{record} never ended"
            if record.status == "failed":
                assert record.error_kind in ("OutOfMemory", "WorkerDied"), record
                assert record.error_kind != "WorkerDied" or record.deaths == MAX_DEATHS


def _draining():
    from rushes.errors import EngineStopped

    return EngineStopped("the worker is going")


TestEngines = Engines.TestCase
TestEngines.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
