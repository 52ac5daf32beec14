"""The data that crosses every border of Rushes: requests in, videos and events out. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Mode = Literal["full", "causal"]
Lane = Literal["interactive", "batch"]
JobStatus = Literal["queued", "running", "completed", "failed", "cancelled"]
FINAL: frozenset[JobStatus] = frozenset(("completed", "failed", "cancelled"))
Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def fields_of(record: Any) -> dict[str, Any]:
    """Of a dataclass whose fields are plain values, by name: `asdict` in a fifth of its time.

    Example:
        >>> fields_of(ForwardCounts(conditional=3))
        {'conditional': 3, 'unconditional': 0}
    """
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """Size of a clip: pixels, frames (4n+1) and frames per second."""

    width: int
    height: int
    num_frames: int
    fps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a clip is sampled.

    Attributes:
        num_inference_steps: solver steps, >= 1.
        solver: a name of `rushes.sampling.solvers.SOLVERS`.
        flow_shift: s in sigma' = s*sigma / (1 + (s-1)*sigma).
        guidance_high: classifier-free guidance scale of the high-noise expert; a one-expert model reads
            this one. 1.0 turns guidance off and skips the unconditional forward.
        guidance_low: the same for the low-noise expert.
        seed: of the initial noise (and of a stochastic solver's).
        timesteps: fixed timesteps in [0, 1000] of a distilled schedule, highest first; None computes them
            from steps and shift. When given, its length is the number of steps.
        lora: file in the checkpoint's folder that is fused into the transformer for this clip; None for none.
        guidance_gate: share of the steps after which the unconditional forward is no longer run, its last
            difference from the conditional one being used again; 1 runs it at every step.
        step_cache: accumulated relative error up to which a step uses the last forward again; 0 runs every
            forward. Both are off at 8 steps or fewer (`rushes.sampling.step_cache`).
    """

    num_inference_steps: int
    solver: str
    flow_shift: float
    guidance_high: float
    guidance_low: float
    seed: int
    timesteps: tuple[float, ...] | None = None
    lora: str | None = None
    guidance_gate: float = 1.0
    step_cache: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSource:
    """Stored latents of an earlier clip, from which a clip goes on instead of from pure noise.

    Attributes:
        name: of the snapshot's file.
        sigma: noise level of the snapshot, in [0, 1); 0 of a clip's finished latents.
        step: the solver step of this clip that is the first to run; those before it are saved.
        is_renoised: True begins with the predicted clean latents, noised with this clip's own seed to the
            level of `step`; False with the latents as they stood, whose level must then be that of `step`.
        mask: of the file that says where the clip may change; None for everywhere.
    """

    name: str
    sigma: float
    step: int
    is_renoised: bool
    mask: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One clip, fully resolved: what a pipeline validated and a job will run, nothing left to default.

    Attributes:
        mode: "full" denoises the clip as a whole, "causal" one latent frame after another.
        source: the latents that it goes on from; None begins with noise. A clip whose source turns out to be
            missing or damaged begins with noise too.
    """

    prompt: str
    negative_prompt: str
    pipeline: str
    video: VideoSpec
    sampling: SamplingParams
    mode: Mode = "full"
    source: LatentSource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds spent in one stage of a job, and how many units (steps, latents, frames) it ran."""

    stage: str
    seconds: float
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardCounts:
    """Forwards of the transformer that a job's solver steps really ran: those for the prompt, and those for
    the negative prompt under guidance. A causal clip's passes that only write its cache are not counted."""

    conditional: int = 0
    unconditional: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A look at a clip while it is being denoised: the predicted clean clip, small and rough.

    Attributes:
        step: solver steps done, 1..num_steps.
        frames: uint8 [T, h, w, 3] at latent resolution.
    """

    step: int
    num_steps: int
    frames: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Decoded frames, in order: uint8 [n, height, width, 3] that start at frame `start` of the clip."""

    start: int
    frames: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The last event of a stream: what was asked, where the time went and what was run for it."""

    request: GenerateRequest
    timings: tuple[Timing, ...]
    forwards: ForwardCounts = ForwardCounts()


Event = Preview | Frames | Done


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What `on_progress` is called with after every unit: `units` of `total` of one stage are done.

    Attributes:
        seconds: spent in this stage so far, loading of weights not included.
    """

    stage: str
    units: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A finished clip.

    Attributes:
        frames: uint8 [T, height, width, 3], RGB.
        fps: frames per second.
        timings: seconds per stage.
        request: what made it.
        forwards: what its steps ran; fewer than steps where a step cache or a guidance gate saved some.
    """

    frames: NDArray[np.uint8]
    fps: int
    request: GenerateRequest
    timings: tuple[Timing, ...] = field(default=())
    forwards: ForwardCounts = ForwardCounts()

    def save(self, path: str | Path) -> Path:
        """Write the clip in the format that the name's ending says (.mp4 .webm .gif .webp, or a folder of
        PNG files for a name without an ending) and return the path. Raises `OutputError`."""
        from rushes.stages.video_encode import save_video

        return save_video(self.frames, self.fps, Path(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentVideo:
    """What `generate(output="latents")` returns: float32 [1, C, T, H, W], normalised, on the CPU."""

    latents: torch.Tensor
    request: GenerateRequest
    timings: tuple[Timing, ...] = field(default=())
    forwards: ForwardCounts = ForwardCounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """How a job is treated, whatever it makes.

    Attributes:
        lane: interactive jobs run before batch jobs, at the next step of whatever runs.
        tenant: whose share of the device it uses.
        deadline_s: seconds after submission when it must be finished; None for whenever.
        degrade: a clip that does not fit may be made with fewer frames, smaller or in fewer steps.
        idempotency_key: the same key and request from the same tenant is the same job; None for a new one.
        preview_every: solver steps between two previews; 0 for none.
        traceparent: W3C trace context of whoever asked, beneath which the job's spans belong; None for none.
    """

    lane: Lane = "batch"
    tenant: str = "default"
    deadline_s: float | None = None
    degrade: bool = False
    idempotency_key: str | None = None
    preview_every: int = 0
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """Something that happened to a job.

    Attributes:
        number: 1, 2, 3, ... within the job, so that a reader can go on where it stopped.
        kind: queued, started, resumed, degraded, progress, preview, frames, completed, failed or cancelled;
            the last three end the job.
        at: seconds since the epoch, by the clock of who wrote it.
        data: by kind; see docs/engine.md.
    """

    job_id: str
    number: int
    kind: str
    at: float
    data: Mapping[str, Json]
