"""A discrete-event simulation of one H200 that drives the real `Scheduler`, `CostModel` and `Admission`.

The device runs one batch at a time, which leaves out the overlap of stages that the engine has: what is shown
is owed to scheduling alone. Stage times are those of plain diffusers in facts/h200.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from rushes.engine.admission import Admission, AdmissionPolicy
from rushes.engine.cost import CostModel, Prediction
from rushes.engine.rates import H200
from rushes.engine.scheduler import Batch, Policy, Scheduler, Ticket
from rushes.engine.shapes import WAN22_T2V_A14B, WAN22_TI2V_5B
from rushes.engine.units import LatentGrid
from rushes.errors import QueueFull
from rushes.pipelines.rules import load_rules, resolve
from rushes.sampling.guidance import is_high_noise
from rushes.sampling.schedules import unipc_schedule
from rushes.stages.base import BatchKey
from rushes.types import GenerateRequest, JobOptions, Lane

SHAPES = {"wan2.2-t2v-a14b": WAN22_T2V_A14B, "wan2.2-ti2v-5b": WAN22_TI2V_5B}

H200_BYTES = 141 * 10**9
"""Memory of the card."""

NUM_TENANTS = 4
"""Every job belongs to one of them at random. The issue does not say how many there are."""

SPREAD = 0.1
"""A job's units all take their mean times the same factor, even in 1 - SPREAD .. 1 + SPREAD."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """A sort of job, with its measured seconds.

    Attributes:
        forward_s: of one forward; a guided step runs two.
        first_s, decode_s: of the first latent frame, and of the whole decode.
    """

    name: str
    lane: Lane
    share: float
    request: GenerateRequest
    forward_s: float
    first_s: float
    decode_s: float
    text_s: float = 0.029


def _request(pipeline: str, width: int, height: int, preset: str) -> GenerateRequest:
    rules = load_rules(pipeline)
    return resolve(rules, "a dog runs", preset=preset, width=width, height=height, seed=7)


KINDS = (
    Kind(
        name="480p81, 4 steps",
        lane="interactive",
        share=0.1,
        request=_request("wan2.2-t2v-a14b", 832, 480, "distilled-4"),
        forward_s=3.155,
        first_s=0.027,
        decode_s=1.836,
    ),
    Kind(
        name="A14B 480p81, 40 steps",
        lane="batch",
        share=0.9 * 0.60,
        request=_request("wan2.2-t2v-a14b", 832, 480, "quality"),
        forward_s=3.155,
        first_s=0.027,
        decode_s=1.836,
    ),
    Kind(
        name="A14B 720p81, 4 steps",
        lane="batch",
        share=0.9 * 0.25,
        request=_request("wan2.2-t2v-a14b", 1280, 720, "distilled-4"),
        forward_s=11.768,
        first_s=0.027 * 4.186 / 1.836,  # not measured: scaled like the whole decode
        decode_s=4.186,
    ),
    Kind(
        name="5B 704p121, 50 steps",
        lane="batch",
        share=0.9 * 0.15,
        request=_request("wan2.2-ti2v-5b", 1280, 704, "quality"),
        forward_s=1.037,
        first_s=0.055,
        decode_s=5.854,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One unit of a kind.

    Attributes:
        seconds: mean time it takes.
        predicted_s, remaining_s: what the cost model says of it, and of it and all that follow.
    """

    key: BatchKey
    seconds: float
    predicted_s: float
    remaining_s: float


@dataclass(slots=True, kw_only=True)
class SimulatedJob:
    """A job and what became of it; times in seconds from the start.

    Attributes:
        factor: of its seconds, by chance.
        eta_s: None when it was refused.
    """

    id: str
    kind: Kind
    tenant: str
    arrived_at: float
    factor: float
    eta_s: float | None = None
    units_done: int = 0
    first_frame_at: float | None = None
    finished_at: float | None = None

    @property
    def seconds(self) -> float:
        """Device seconds that it takes."""
        return self.factor * sum(unit.seconds for unit in units_of(self.kind))

    @property
    def first_frame_s(self) -> float:
        """From its arrival to its first frame."""
        assert self.first_frame_at is not None
        return self.first_frame_at - self.arrived_at

    @property
    def lateness(self) -> float:
        """How many times its ETA it took."""
        assert self.finished_at is not None
        assert self.eta_s is not None
        return (self.finished_at - self.arrived_at) / self.eta_s


def calibrated() -> CostModel:
    """A cost model that has seen three units of each sort, at their mean times."""
    cost = CostModel(H200, SHAPES)
    for kind in KINDS:
        prediction = cost.predict(kind.request)
        for stage, at, seconds in _measured(kind):
            for _ in range(3):
                cost.observe(kind.request.pipeline, stage, [prediction.unit_work(stage, at)], seconds)
    return cost


@cache
def units_of(kind: Kind) -> tuple[Unit, ...]:
    """All units of a kind, in order."""
    prediction = calibrated().predict(kind.request)
    return tuple(
        Unit(
            key=_key(kind, stage, at),
            seconds=seconds,
            predicted_s=prediction.unit_s(stage, at),
            remaining_s=prediction.remaining_s(_done_before(prediction, stage, at)),
        )
        for stage, at, seconds in _measured(kind)
    )


def _measured(kind: Kind) -> Iterator[tuple[str, int, float]]:
    """Stage, number and seconds of every unit."""
    sampling = kind.request.sampling
    frames = LatentGrid.of(SHAPES[kind.request.pipeline], kind.request.video).frames
    yield "text_encode", 0, kind.text_s
    for step in range(sampling.num_inference_steps):
        yield "denoise", step, kind.forward_s * (1 + (sampling.guidance_high != 1.0))
    for frame in range(frames):
        rest_s = (kind.decode_s - kind.first_s) / (frames - 1)
        yield "vae_decode", frame, rest_s if frame else kind.first_s


def _done_before(prediction: Prediction, stage: str, at: int) -> dict[str, int]:
    stages = list(prediction.stages)
    done = {name: prediction.stages[name].units for name in stages[: stages.index(stage)]}
    return {**done, stage: at}


def _key(kind: Kind, stage: str, at: int) -> BatchKey:
    pipeline, request = kind.request.pipeline, kind.request
    if stage == "text_encode":
        return BatchKey(stage=stage, pipeline=pipeline)
    shape = SHAPES[pipeline]
    grid = LatentGrid.of(shape, request.video)
    latents = (shape.vae.z_dim, grid.frames, grid.rows, grid.columns)
    if stage == "vae_decode":
        return BatchKey(stage=stage, pipeline=pipeline, latent_shape=latents)
    sampling = request.sampling
    schedule = unipc_schedule(sampling.num_inference_steps, sampling.flow_shift)
    timestep = (sampling.timesteps or schedule.timesteps)[at]
    expert: str = "high" if is_high_noise(timestep, shape.boundary) else "low"
    return BatchKey(stage=stage, pipeline=pipeline, latent_shape=latents, expert=expert, text_len=512)


def mean_job_s() -> float:
    """Mean device seconds of a job of the mix: its inverse is the capacity."""
    return sum(kind.share * sum(unit.seconds for unit in units_of(kind)) for kind in KINDS)


def arrivals(load: float, num_jobs: int, seed: int) -> list[SimulatedJob]:
    """Poisson arrivals of the mix at `load` times the capacity."""
    rng = random.Random(f"{seed}/{load}")
    now, jobs = 0.0, []
    for number in range(num_jobs):
        now += rng.expovariate(load / mean_job_s())
        (kind,) = rng.choices(KINDS, [kind.share for kind in KINDS])
        jobs.append(
            SimulatedJob(
                id=str(number),
                kind=kind,
                tenant=f"tenant-{rng.randrange(NUM_TENANTS)}",
                arrived_at=now,
                factor=rng.uniform(1 - SPREAD, 1 + SPREAD),
            )
        )
    return jobs


def run_fcfs(jobs: Sequence[SimulatedJob]) -> list[SimulatedJob]:
    """What rivals do: whole jobs, first come first served, none refused."""
    now, done = 0.0, []
    for job in jobs:
        begin = max(now, job.arrived_at)
        units = units_of(job.kind)
        up_to_first = sum(unit.seconds for unit in units[: _first_decode(job.kind) + 1])
        now = begin + job.seconds
        done.append(replace(job, first_frame_at=begin + job.factor * up_to_first, finished_at=now))
    return done


@cache
def _first_decode(kind: Kind) -> int:
    return next(i for i, unit in enumerate(units_of(kind)) if unit.key.stage == "vae_decode")


@dataclass(slots=True)
class Device:
    """One device under the real scheduler; time passes from unit to unit."""

    scheduler: Scheduler
    admission: Admission
    now: float = 0.0
    jobs: dict[str, SimulatedJob] = field(default_factory=dict)

    def offer(self, job: SimulatedJob) -> None:
        """A job arrives; it is queued or refused."""
        options = JobOptions(lane=job.kind.lane, tenant=job.tenant)
        try:
            promise = self.admission.decide(job.kind.request, options, self.scheduler.backlog(job.arrived_at))
        except QueueFull:
            return
        job.eta_s = promise.eta_s
        self.jobs[job.id] = job
        unit = units_of(job.kind)[0]
        self.scheduler.add(
            Ticket(
                job_id=job.id,
                lane=job.kind.lane,
                tenant=job.tenant,
                arrived_at=job.arrived_at,
                deadline_at=None,
                key=unit.key,
                unit_s=unit.predicted_s,
                remaining_s=unit.remaining_s,
            )
        )

    def finish(self, batch: Batch, seconds: float) -> None:
        """The batch is over."""
        self.now += seconds
        self.scheduler.done(batch, seconds)
        for job_id in batch.job_ids:
            self._advance(self.jobs[job_id])

    def seconds_of(self, batch: Batch) -> float:
        """What the batch takes: as predicted, but for the jobs' factors and what the model errs alone."""
        jobs = [self.jobs[job_id] for job_id in batch.job_ids]
        units = [self._unit(job) for job in jobs]
        if len(jobs) == 1:
            return jobs[0].factor * units[0].seconds
        actual = sum(job.factor * unit.seconds for job, unit in zip(jobs, units, strict=True))
        return batch.predicted_s * actual / sum(unit.predicted_s for unit in units)

    def _unit(self, job: SimulatedJob) -> Unit:
        return units_of(job.kind)[job.units_done]

    def _advance(self, job: SimulatedJob) -> None:
        job.units_done += 1
        if job.units_done == _first_decode(job.kind) + 1:
            job.first_frame_at = self.now
        if job.units_done < len(units_of(job.kind)):
            unit = self._unit(job)
            self.scheduler.update(job.id, key=unit.key, unit_s=unit.predicted_s, remaining_s=unit.remaining_s)
            return
        job.finished_at = self.now
        self.scheduler.remove(job.id)
        del self.jobs[job.id]
        assert job.eta_s is not None
        self.admission.observe(
            job.kind.lane,
            admitted_at=job.arrived_at,
            eta_s=job.eta_s,
            actual_s=job.finished_at - job.arrived_at,
        )


def run_rushes(
    jobs: Sequence[SimulatedJob],
    policy: Policy | None = None,
    admission_policy: AdmissionPolicy | None = None,
    watch: Callable[[Device], None] = lambda device: None,
) -> list[SimulatedJob]:
    """The same jobs under the scheduler, up to the last one's end."""
    cost = calibrated()
    device = Device(Scheduler(policy, cost.batch_seconds), Admission(cost, H200_BYTES, admission_policy))
    coming = [replace(job) for job in jobs]
    waiting = iter(coming)
    following = next(waiting, None)
    while True:
        batch = device.scheduler.next(device.now)
        if batch is None:
            if following is None:
                return coming
            device.now = max(device.now, following.arrived_at)
        seconds = device.seconds_of(batch) if batch is not None else 0.0
        while following is not None and following.arrived_at <= device.now + seconds:
            device.offer(following)
            following = next(waiting, None)
        if batch is not None:
            device.finish(batch, seconds)
        watch(device)
