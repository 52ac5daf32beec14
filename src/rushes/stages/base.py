"""What a stage is, and the job that passes through the stages. No torch: the scheduler reads this too."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from rushes.types import ForwardCounts, Frames, GenerateRequest, Timing

if TYPE_CHECKING:
    from concurrent.futures import Future

    import torch

    from rushes.models.text import PromptEmbeds
    from rushes.models.wan_vae import DecodeState
    from rushes.ops.kv_cache import KVCache
    from rushes.sampling.history import History
    from rushes.sampling.step_cache import StepCache
    from rushes.stages.host_frames import Arrival
    from rushes.stages.source import Region, Snapshot, SourceLatents
    from rushes.stages.text_encode import Conditioning

WARM_LATENTS = 5
"""Latent frames that are decoded before the first one whose frames are wanted, where a decoder begins within
a clip. docs/reuse.md has what is lost by beginning there."""

NoiseExpert = Literal["high", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchKey:
    """Jobs with equal keys may run in one batch. A field that a stage does not care about keeps its default.

    The solver is no part of it: steps are taken per job, whatever solver each of them uses.

    Attributes:
        latent_shape: (C, T, H, W).
        expert: the noise expert that the job's next step runs.
        lora: the LoRA fused into that expert's weights.
        text_len: tokens of the prompt; it differs only where embeddings of another length were given.
        is_start: of decoding, the unit is a clip's first, which has no past and makes one frame.
        alone: the job's id where the stage cannot batch it with any other.
    """

    stage: str
    pipeline: str
    latent_shape: tuple[int, int, int, int] | None = None
    expert: NoiseExpert | None = None
    lora: str | None = None
    text_len: int | None = None
    is_start: bool = False
    alone: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Tensors that the caller brought instead of having them made: initial noise and text states.

    Attributes:
        source: what the clip goes on from, where its request has a source.
    """

    latents: torch.Tensor | None = None
    prompt_embeds: PromptEmbeds | None = None
    negative_prompt_embeds: PromptEmbeds | None = None
    source: SourceLatents | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseState:
    """Where one trajectory stands; all that a resume needs beside the request.

    Attributes:
        latents: float32 [1, C, T, H, W], at noise level `sigmas[step]`.
        sigmas: noise levels from the first to the terminal 0; one more than there are steps.
        timesteps: what the transformer is told at each step, in [0, 1000].
        step: steps done.
        history: the solver's past, None before the first step.
        step_cache: what the steps use again of earlier ones, None where they use nothing.
        region: where the clip may change, None for everywhere.
    """

    latents: torch.Tensor
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    step: int = 0
    history: History | None = None
    step_cache: StepCache | None = None
    region: Region | None = None

    @property
    def is_finished(self) -> bool:
        """Whether every step is done."""
        return self.step == len(self.timesteps)

    @property
    def timestep(self) -> float:
        """What the transformer is told at the step to come."""
        return self.timesteps[self.step]


@dataclass(slots=True, kw_only=True)
class CausalState:
    """Where a causal generation stands.

    Attributes:
        noise: initial noise of all latent frames, [1, C, T, H, W].
        start: the state at step 0 that each latent frame begins with, its latents aside.
        chunk: trajectory of the latent frame in work, None between two frames.
        caches: keys and values of the clean frames so far: the prompt's branch and, under guidance, the
            negative prompt's. What they lack of `Job.latents` is written before the next step.
    """

    noise: torch.Tensor
    start: DenoiseState
    chunk: DenoiseState | None
    caches: tuple[KVCache, ...]


@dataclass(slots=True, kw_only=True, weakref_slot=True, eq=False)
class Job:
    """One request on its way: a slot per stage, written once and freed by the stage after it.

    Attributes:
        latent_shape: (C, T, H, W) of the clip.
        guidance: scale by noise expert; a one-expert model has "high" only.
        wants_video: False stops at the latents.
        wants_preview: keep the predicted clean latents of the last step.
        snapshot_steps: steps before which the clip's latents are to be kept,
        snapshots: and those that have been, until somebody takes them.
        text: written by TextEncode, freed when the last latent frame is denoised.
        noise: what the clip begins as, being drawn, until Denoise asks for it.
        denoise: progress of Denoise (or DenoiseCausal).
        predicted: clean latents as the last step saw them, only where previews are wanted.
        latents: finished latent frames [1, C, 1, H, W], kept to the job's end: they are small, and whoever
            takes the job up again decodes it from the first one.
        decode: progress of VaeDecode: the decoder's past behind the latent frames that the device was given.
        arriving: frames of the first latent frame that is not decoded yet, where the device was given it.
        is_crowded: other jobs wait for the stage that runs it now, or for its end.
        may_run_ahead: its next latent frames may be given to the device while frames are fetched; not after
            memory was short for that.
        num_decoded: latent frames decoded so far, or whose pixel frames were known.
        num_lead: of these, those whose pixel frames were known before the job began.
        num_frames: pixel frames decoded so far.
        num_delivered: pixel frames that had been decoded when the job was taken up again; they come a second
            time, the same, so that a writer gets them all.
        frames: decoded and not yet taken by whoever reads this job.
        timings: by stage, growing while the job runs.
        forwards: what the steps so far have run.
    """

    request: GenerateRequest
    latent_shape: tuple[int, int, int, int]
    guidance: Mapping[NoiseExpert, float]
    given: Given = field(default_factory=Given)
    wants_video: bool = True
    wants_preview: bool = False
    snapshot_steps: frozenset[int] = frozenset()
    snapshots: list[Snapshot] = field(default_factory=list)
    text: Conditioning | None = None
    noise: Future[torch.Tensor] | None = None
    denoise: DenoiseState | CausalState | None = None
    predicted: torch.Tensor | None = None
    latents: list[torch.Tensor] = field(default_factory=list)
    decode: DecodeState | None = None
    arriving: Arrival | None = None
    is_crowded: bool = False
    may_run_ahead: bool = True
    num_decoded: int = 0
    num_lead: int = 0
    num_frames: int = 0
    num_delivered: int = 0
    frames: deque[Frames] = field(default_factory=deque)
    timings: dict[str, Timing] = field(default_factory=dict)
    forwards: ForwardCounts = field(default=ForwardCounts())

    @property
    def num_latent_frames(self) -> int:
        """Latent frames of the whole clip."""
        return self.latent_shape[1]

    @property
    def first_step(self) -> int:
        """The solver step that runs first: those before it were run for the clip's source."""
        source = self.request.source
        return 0 if source is None or self.given.source is None else source.step

    @property
    def num_denoised(self) -> int:
        """Latent frames finished so far."""
        return len(self.latents)

    @property
    def num_waiting(self) -> int:
        """Finished latent frames that wait to be decoded."""
        return max(0, self.num_denoised - self.num_decoded)

    @property
    def is_denoised(self) -> bool:
        """Whether every latent frame is finished."""
        return self.num_denoised == self.num_latent_frames

    @property
    def is_causal(self) -> bool:
        """Whether latent frames are denoised one after another."""
        return self.request.mode == "causal"

    @property
    def lora(self) -> str | None:
        """The LoRA fused into the networks that run this job, None for none."""
        return self.request.sampling.lora

    @property
    def is_guided(self) -> bool:
        """Whether any noise expert of this job needs the unconditional branch."""
        return any(scale != 1.0 for scale in self.guidance.values())


class Stage(Protocol):
    """One part of a generation, advanced unit by unit. A stage keeps nothing of a job: the job does.

    Attributes:
        runs_ahead: what `run` makes is there when it returns; the device may have been given more by then.
    """

    name: str
    runs_ahead: bool

    def prepare(self, job: Job) -> None:
        """Load the weights that `run` will need, so that loading is not timed as work."""

    def key(self, job: Job) -> BatchKey:
        """Which jobs may run beside this one now."""

    def run(self, jobs: Sequence[Job]) -> None:
        """Advance each of these jobs, all of one key, by one unit."""

    def done(self, job: Job) -> bool:
        """Whether this stage has nothing to do for the job as it stands."""

    def units(self, job: Job) -> int:
        """Units that the whole job takes in this stage."""
