"""Stand-ins for what the bench measures, in a time that only they move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from rushes.engine.outlets import Outlet
from rushes.errors import QueueFull
from rushes.profiling.bench.base import OnLatents
from rushes.types import (
    Done,
    Event,
    Frames,
    GenerateRequest,
    JobEvent,
    JobOptions,
    Json,
    Preview,
    SamplingParams,
    Timing,
    VideoSpec,
)


@dataclass
class FakeClock:
    """Seconds that pass when somebody says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def make_request(
    prompt: str = "a dog", *, seed: int = 0, steps: int = 3, num_frames: int = 5
) -> GenerateRequest:
    sampling = SamplingParams(
        num_inference_steps=steps,
        solver="unipc",
        flow_shift=3.0,
        guidance_high=2.0,
        guidance_low=2.0,
        seed=seed,
    )
    video = VideoSpec(width=32, height=16, num_frames=num_frames, fps=8)
    return GenerateRequest(prompt=prompt, negative_prompt="", pipeline="toy", video=video, sampling=sampling)


def clip_of(request: GenerateRequest, brightness: int = 0) -> np.ndarray:
    """A clip that depends on the seed, uint8 [T, H, W, 3]."""
    video = request.video
    shape = (video.num_frames, video.height, video.width, 3)
    noise = np.random.default_rng(request.sampling.seed).integers(0, 200, shape)
    return (noise + brightness).astype(np.uint8)


@dataclass
class FakeContender:
    """Makes a clip in steps of a second each: a preview after every one, then two pieces of the clip.

    Attributes:
        brightness: that it adds to every pixel and latent, to be told apart.
        asked: prompts, in the order in which they came.
        on_start: called when a clip begins.
    """

    name: str
    clock: FakeClock = field(default_factory=FakeClock)
    brightness: int = 0
    step_s: float = 1.0
    asked: list[str] = field(default_factory=list)
    on_start: Callable[[str], None] = lambda name: None

    @property
    def settings(self) -> Mapping[str, Json]:
        return {"brightness": self.brightness}

    def events(
        self, request: GenerateRequest, *, preview_every: int = 0, on_latents: OnLatents | None = None
    ) -> Iterator[Event]:
        self.asked.append(request.prompt)
        self.on_start(self.name)
        num_steps = request.sampling.num_inference_steps
        for step in range(1, num_steps + 1):
            self.clock.wait(self.step_s)
            if on_latents is not None:
                on_latents(torch.full((1, 1, 2, 2, 2), float(step + self.brightness)))
            if preview_every and step % preview_every == 0:
                frames = np.zeros((1, 2, 4, 3), np.uint8)
                yield Preview(step=step, num_steps=num_steps, frames=frames)
        clip = clip_of(request, self.brightness)
        for start, piece in ((0, clip[:1]), (1, clip[1:])):
            self.clock.wait(0.5)
            yield Frames(start=start, frames=piece)
        yield Done(
            request=request,
            timings=(
                Timing(stage="denoise", seconds=num_steps * self.step_s, units=num_steps),
                Timing(stage="vae_decode", seconds=1.0, units=2),
            ),
        )


@dataclass
class FakeJob:
    request: GenerateRequest
    outlet: Outlet
    queued_at: float
    started_at: float
    ended_at: float


@dataclass
class FakeEngine:
    """Runs jobs one after another, each `service_s` long, the first frames half-way. It implements
    `LoadEngine`; what happens to a job is told when somebody reads its events.

    Attributes:
        submit_s: that a submission takes.
        fates: how the jobs of some prompts end: refused, failed, cancelled or degraded.
    """

    clock: FakeClock
    service_s: float = 1.0
    submit_s: float = 0.0
    fates: Mapping[str, str] = field(default_factory=dict)
    jobs: list[FakeJob] = field(default_factory=list)
    free_at: float = 0.0

    def submit(
        self, request: GenerateRequest, options: JobOptions | None = None, *, outlet: Outlet | None = None
    ) -> str:
        assert outlet is not None
        if self.fates.get(request.prompt) == "refused":
            raise QueueFull("the queue is full", retry_after_s=3)
        queued_at = self.clock()
        self.clock.wait(self.submit_s)
        started_at = max(self.clock(), self.free_at)
        self.free_at = started_at + self.service_s
        self.jobs.append(
            FakeJob(
                request=request,
                outlet=outlet,
                queued_at=queued_at,
                started_at=started_at,
                ended_at=self.free_at,
            )
        )
        return str(len(self.jobs) - 1)

    def events(self, job_id: str, *, after: int = 0) -> Iterator[JobEvent]:
        job = self.jobs[int(job_id)]
        fate = self.fates.get(job.request.prompt, "completed")
        # A worker takes a job at once and works on it when its turn comes.
        kinds = [("queued", job.queued_at), ("started", job.queued_at)]
        if fate == "degraded":
            kinds.append(("degraded", job.queued_at))
        unit_s = self.service_s / 8
        kinds.append(("progress", job.started_at + unit_s))
        kinds.append(("preview", job.started_at + self.service_s / 4))
        data: dict[str, Json] = {"error": "no memory"} if fate == "failed" else {"actual_s": self.service_s}
        ending = fate if fate in ("failed", "cancelled") else "completed"
        if ending == "completed":
            self._deliver(job, half=fate == "degraded")
        else:
            job.outlet.abort()
        told: dict[str, dict[str, Json]] = {ending: data, "progress": {"seconds": unit_s}}
        for number, (kind, at) in enumerate([*kinds, (ending, job.ended_at)], 1):
            yield JobEvent(job_id=job_id, number=number, kind=kind, at=at, data=told.get(kind, {}))

    def _deliver(self, job: FakeJob, *, half: bool) -> None:
        clip = clip_of(job.request)[:, :: 2 if half else 1, :: 2 if half else 1]
        self.clock.now = job.started_at + self.service_s / 2
        job.outlet.write(Frames(start=0, frames=clip[:1]))
        self.clock.now = job.ended_at
        job.outlet.write(Frames(start=1, frames=clip[1:]))
        job.outlet.finish()
