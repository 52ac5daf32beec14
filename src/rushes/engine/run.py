"""One job while a worker has it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Protocol

from rushes.engine.outlets import Courier, Outlet
from rushes.engine.scheduler import Ticket
from rushes.engine.work import Work
from rushes.stages.base import BatchKey, Given, Job
from rushes.stores.base import Told
from rushes.trace import Span, under
from rushes.types import JobOptions

_numbers = itertools.count(1)


class Forecast(Protocol):
    """What the cost model expects of one job alone, in device seconds."""

    @property
    def total_s(self) -> float:
        """Of the whole job."""

    def unit_s(self, stage: str, units_done: int) -> float:
        """The unit of `stage` that follows `units_done` of them."""

    def unit_work(self, stage: str, units_done: int) -> Work:
        """What that unit is predicted from."""

    def remaining_s(self, units_done: Mapping[str, int]) -> float:
        """Everything still to do, `units_done` by stage."""


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
    """A job in work.

    Attributes:
        arrived_at, deadline_at: by the runner's clock.
        forecast: of this job alone.
        device_s: device seconds used so far; a batch's seconds are shared out evenly.
        is_alone: it may not share a batch any more, since a batch with it failed.
        num_ooms: how often the device ran out of memory with it.
        ending: why it is to end as soon as no unit of it runs, None while it goes on.
        is_over: it has been dropped or completed; nothing more is told about it.
        predicted_s: of the whole job, as it was expected when it was taken.
        num_delivered: pixel frames that the outlet has taken, in this life or an earlier one.
        num_passed: later runs that began while this one had no room.
        number: unique in this process.
        life: how many times the job has been taken by a worker, this time counted.
        span: of the request, None where nobody listened when it began.
        untold: events of it that go to the store with the next ones.
        write_s: that the outlet took for the latest frames; infinite before the first.
        untold_since: when the first of what waits to be told was; infinite where nothing does.
        waits_since_ns: when it began to wait for its next unit, by `perf_counter_ns`; 0 while one runs.
    """

    id: str
    job: Job
    options: JobOptions
    outlet: Outlet
    courier: Courier
    forecast: Forecast
    arrived_at: float
    deadline_at: float | None = None
    device_s: float = 0.0
    is_alone: bool = False
    num_ooms: int = 0
    predicted_s: float = 0.0
    num_delivered: int = 0
    num_passed: int = 0
    ending: Exception | None = None
    is_over: bool = False
    number: int = field(default_factory=lambda: next(_numbers))
    life: int = 1
    span: Span | None = None
    waits_since_ns: int = 0
    write_s: float = inf
    untold_since: float = inf
    untold: list[Told] = field(default_factory=list)

    def send(self, task: Callable[[], None]) -> None:
        """By the courier, as a part of the request."""
        self.courier.send(partial(_under, self.span, task))

    def units(self, stage: str) -> int:
        """Units done of this stage."""
        timing = self.job.timings.get(stage)
        return timing.units if timing else 0

    def key(self, key: BatchKey) -> BatchKey:
        """The stage's key, or one that no other job has."""
        return replace(key, alone=self.number) if self.is_alone else key

    def remaining_s(self) -> float:
        """Device seconds still to come, as expected."""
        return self.forecast.remaining_s({name: t.units for name, t in self.job.timings.items()})

    def ticket(self, key: BatchKey) -> Ticket:
        """This run as the scheduler sees it."""
        return Ticket(
            job_id=self.id,
            lane=self.options.lane,
            tenant=self.options.tenant,
            arrived_at=self.arrived_at,
            deadline_at=self.deadline_at,
            key=self.key(key),
            unit_s=self.forecast.unit_s(key.stage, self.units(key.stage)),
            remaining_s=self.remaining_s(),
        )

    def free(self) -> None:
        """Let go of every tensor."""
        job = self.job
        if job.noise is not None:
            job.noise.cancel()
        job.given = Given()
        job.noise = job.text = job.denoise = job.decode = job.arriving = job.predicted = None
        job.latents.clear()
        job.snapshots.clear()
        job.frames.clear()


def _under(parent: Span | None, task: Callable[[], None]) -> None:
    with under(parent):
        task()
