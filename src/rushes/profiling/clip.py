"""One clip from a prompt to a file under the profiler's spans, whole or just a few units of each kind."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rushes.pipelines.base import run
from rushes.pipelines.model import Model
from rushes.profiling.device import Device
from rushes.profiling.recorder import Recorder
from rushes.profiling.rows import STAGES, expert_of
from rushes.profiling.timeline import SpanTime
from rushes.sampling.guidance import is_high_noise
from rushes.sampling.solvers import schedule_for
from rushes.stages.base import Given, Job
from rushes.stages.video_encode import VideoWriter
from rushes.trace import Listener, Span, listen, span
from rushes.types import GenerateRequest

UNITS = 2
"""Of each kind in a short run: a step shows what it costs the one after it, a second latent what it costs
beside the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is profiled.

    Attributes:
        fields: of `Model.job`, as a caller would give them.
    """

    prompt: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A run that is over.

    Attributes:
        times: every span of the job's thread; the first is the root.
        peaks: most bytes held on the device, by stage.
        request: what was asked for, whole.
        num_latents: latent frames of the whole.
        is_short: only some units of each kind were run.
    """

    times: list[SpanTime]
    peaks: dict[str, int]
    request: GenerateRequest
    num_latents: int
    is_short: bool

    @property
    def seconds(self) -> float:
        """From before the request is checked until the file is complete."""
        return self.times[0].end_s


@dataclass(slots=True, kw_only=True)
class PeakMemory:
    """A listener that keeps the peak of each stage."""

    device: Device
    by_stage: dict[str, int] = field(default_factory=dict)

    def opened(self, span: Span) -> None:
        """See `rushes.trace.Listener`."""
        if _peak_stage(span) is not None:
            self.device.reset_peak()

    def closed(self, span: Span) -> None:
        """See `rushes.trace.Listener`."""
        stage = _peak_stage(span)
        if stage is not None:
            self.by_stage[stage] = max(self.device.peak_bytes(), self.by_stage.get(stage, 0))


def _peak_stage(span: Span) -> str | None:
    """The stage whose peak a span tells: a stage's own, or a forward's that no span of a stage is around, as
    in diffusers' loop."""
    if span.name in STAGES:
        return span.name
    stage = span.attributes.get("stage") if span.name == "forward" else None
    return str(stage) if stage is not None else None


def run_clip(
    model: Model,
    ask: Ask,
    device: Device,
    *,
    is_short: bool,
    beside: Sequence[Listener] = (),
    steps: int = UNITS,
) -> Clip:
    """Make a clip as `rushes generate` does, in the library's own loop, into a file that is thrown away.

    Args:
        is_short: run a few steps of each noise expert, and decode `UNITS` latent frames after the first.
        beside: other listeners of the same spans.
        steps: of each noise expert in a short run.
    """
    recorder, peaks = Recorder(device=device), PeakMemory(device=device)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rushes-profile-"))
        listeners: tuple[Listener, ...] = (recorder, peaks, *beside)
        for listener in listeners:
            stack.enter_context(listen(listener))
        stack.enter_context(_texts_forgotten(model))
        device.synchronize()
        with span("request"):
            job = model.job(ask.prompt, **ask.fields)
            request = job.request
            if is_short:
                with span("resolve"):
                    job = model.pipeline.job(short_request(request, model.boundary, steps), Given())
            _make(model, job, Path(folder) / "clip.mp4", is_short=is_short)
            model.pipeline.synchronize()
    return Clip(
        times=recorder.times(),
        peaks=peaks.by_stage,
        request=request,
        num_latents=job.num_latent_frames,
        is_short=is_short,
    )


def _make(model: Model, job: Job, path: Path, *, is_short: bool) -> None:
    video = asdict(job.request.video)
    if is_short:
        video["num_frames"] = None  # not all of them will come
    with VideoWriter(path, **video) as writer:
        for _ in run(model.pipeline, job):
            while job.frames:
                writer.write(job.frames.popleft().frames)
            if is_short and job.num_decoded > UNITS:
                break


@contextmanager
def _texts_forgotten(model: Model) -> Iterator[None]:
    """No prompt is kept, so that each is encoded as a new one would be; a negative prompt stays, as it does
    from one request to the next."""
    embeddings = model.pipeline.embeddings
    before, embeddings.max_bytes = embeddings.max_bytes, 0
    try:
        yield
    finally:
        embeddings.max_bytes = before


def short_request(request: GenerateRequest, boundary: float | None, steps: int = UNITS) -> GenerateRequest:
    """The same clip in that many steps of each noise expert, the first ones that it would run."""
    timesteps = schedule_for(request.sampling).timesteps
    chosen: list[float] = []
    for is_high in (True, False):
        chosen += [t for t in timesteps if is_high_noise(t, boundary) == is_high][:steps]
    sampling = replace(
        request.sampling,
        num_inference_steps=len(chosen),
        timesteps=tuple(chosen),
        guidance_gate=1.0,
        step_cache=0.0,
    )
    return replace(request, sampling=sampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How often the whole job does what a short run did once: `rushes.profiling.stage_table.Factors`.

    Attributes:
        steps: steps of the whole job for each step run, by noise expert.
        latents: latent frames after the first, for each one decoded.
        frames: encoded frames, for each one encoded.
    """

    steps: Mapping[str, float]
    latents: float
    frames: float

    def of(self, span: Span) -> float:
        """The factor of a span."""
        if span.name == "load":
            return self._of_loading(str(span.attributes.get("stage")))
        expert = expert_of(span)
        if span.name in ("denoise", "forward") and expert is not None:
            return self.steps.get(expert, 1.0)
        if span.name == "video_encode" and not span.attributes.get("is_edge"):
            return self.frames
        return self.latents if _is_of_other_latent(span) else 1.0

    def _of_loading(self, stage: str) -> float:
        """Before every unit of a stage somebody asks whether its weights are there."""
        if stage == "denoise" and self.steps:
            return sum(self.steps.values()) / len(self.steps)
        return self.latents if stage == "vae_decode" else 1.0


WHOLE = Scale(steps={}, latents=1.0, frames=1.0)
"""Of a run that did everything."""


def scale_of(clip: Clip, boundary: float | None) -> Scale:
    """The factors of a clip; those of a whole one are all 1."""
    if not clip.is_short:
        return WHOLE
    request = clip.request
    timesteps = schedule_for(request.sampling).timesteps
    wanted = Counter("high" if is_high_noise(t, boundary) else "low" for t in timesteps)
    done = Counter(
        str(time.span.attributes["expert"])
        for time in clip.times
        if time.span.name == "denoise" and "expert" in time.span.attributes
    )
    decoded = [time.span for time in clip.times if time.span.name == "vae_forward"]
    encoded = sum(int(time.span.attributes.get("frames") or 0) for time in clip.times)
    return Scale(
        steps={expert: wanted[expert] / done[expert] for expert in done},
        latents=(clip.num_latents - 1) / max(1, len(decoded) - 1),
        frames=request.video.num_frames / max(1, encoded),
    )


def _is_of_other_latent(span: Span) -> bool:
    """Whether it belongs to a latent frame after the clip's first."""
    at: Span | None = span
    while at is not None and at.name != "vae_decode":
        at = at.parent
    return at is not None and not at.attributes.get("is_first")
