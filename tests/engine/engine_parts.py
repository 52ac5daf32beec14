"""A planner with fixed answers, and a worker of the tiny model over a store in memory or in a folder."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rushes.engine.client import Poll, StoreClient
from rushes.engine.degrade import Limits, degrade
from rushes.engine.scheduler import Policy, Scheduler
from rushes.engine.worker import Worker, WorkerPolicy
from rushes.errors import OutOfMemory
from rushes.pipelines.rules import load_rules
from rushes.stages.base import Given
from rushes.stores.disk import BlobFolder
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import Frames
from tiny_parts import request, tiny_model

FAST = WorkerPolicy(lease_s=5.0, listen_s=0.02, poll_s=0.005, checkpoint_every=1)


@dataclass(frozen=True)
class FixedForecast:
    """Every unit takes a hundredth of a second."""

    total_s: float = 0.1

    def unit_s(self, stage: str, units_done: int) -> float:
        return 0.01

    def remaining_s(self, units_done: Mapping[str, int]) -> float:
        return 0.1


@dataclass
class FixedPlanner:
    """Fits `room` jobs of at most `max_frames` frames; a frame is a byte."""

    room: int = 100
    max_frames: int = 1000
    begun: list[set[str]] = field(default_factory=list)
    observed: list[tuple[str, int]] = field(default_factory=list)

    def check(self, request) -> None:
        if request.video.num_frames > self.max_frames:
            raise OutOfMemory(f"num_frames: {request.video.num_frames} do not fit")

    def forecast(self, request) -> FixedForecast:
        return FixedForecast()

    def fits(self, request, beside: Sequence[object]) -> bool:
        return len(beside) < self.room

    @property
    def most_bytes(self) -> int:
        return self.max_frames

    def needed_bytes(self, request) -> int:
        return request.video.num_frames

    def smaller(self, asked, ran_out=None):
        most = self.max_frames if ran_out is None else ran_out.video.num_frames - 1
        return degrade(asked, load_rules("toy"), lambda each: each.video.num_frames <= most, Limits())

    def observe(self, runs, key, seconds: float, begun=()) -> None:
        self.observed.append((key.stage, len(runs)))
        self.begun.append({run.id for run in begun})

    def batch_seconds(self, key, unit_s: float, num: int) -> float:
        return unit_s  # batches are free, so the scheduler makes them


@dataclass
class KeptFrames:
    """An outlet that keeps what it gets; `on_write` may wait or raise."""

    on_write: object = None
    frames: list[Frames] = field(default_factory=list)
    is_finished: bool = False
    is_committed: bool = False
    is_aborted: bool = False

    def write(self, frames: Frames) -> None:
        if self.on_write is not None:
            self.on_write(frames)
        self.frames.append(frames)

    def finish(self) -> str:
        self.is_finished = True
        return "kept"

    def committed(self) -> None:
        self.is_committed = True

    def abort(self) -> None:
        self.is_aborted = True

    @property
    def clip(self) -> np.ndarray:
        return np.concatenate([each.frames for each in self.frames])


@dataclass
class Place:
    """A worker with what tests look at."""

    worker: Worker
    client: StoreClient
    store: SqliteJobStore
    model: object
    planner: FixedPlanner
    outlets: dict[str, KeptFrames]

    def clip(self, job_id: str) -> np.ndarray:
        return self.outlets[job_id].clip


def make_place(
    folder: Path,
    *,
    database: Path | str = ":memory:",
    policy: WorkerPolicy = FAST,
    max_batch: int = 8,
    model=None,
    planner: FixedPlanner | None = None,
    on_write=None,
    outlet=None,
    **options,
) -> Place:
    model, planner = model or tiny_model(), planner or FixedPlanner()
    store = SqliteJobStore(database)
    outlets: dict[str, KeptFrames] = {}

    def kept(record):
        outlets[record.id] = KeptFrames(on_write)
        return outlets[record.id]

    scheduler = Scheduler(Policy(max_batch=max_batch), planner.batch_seconds)
    blobs = BlobFolder(folder)
    worker = Worker(model, store, blobs, outlet or kept, scheduler, planner, policy=policy, **options)
    client = StoreClient(store, watch=Poll(0.002))
    return Place(worker, client, store, model, planner, outlets)


@contextmanager
def working(folder: Path, **options):
    """A worker that runs inside the block."""
    place = make_place(folder, **options)
    place.worker.start()
    try:
        yield place
    finally:
        place.worker.end()
        place.store.close()


def stage_of(model, name):
    return next(stage for stage in model.pipeline.stages(_job(model)) if stage.name == name)


def _job(model):
    return model.pipeline.job(request(), Given())


def hold(model, stage):
    """Make a stage's units wait; returns what says that one has begun, and what lets them go on."""
    entered, goes_on = threading.Event(), threading.Event()
    found = stage_of(model, stage)
    run = found.run

    def held(jobs):
        entered.set()
        goes_on.wait(20)
        run(jobs)

    found.run = held
    return entered, goes_on
