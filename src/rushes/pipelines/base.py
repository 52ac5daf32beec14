"""What a pipeline is, and the loop that takes one job through it. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from rushes.passes.base import ClipShape
from rushes.stages.base import Given, Job, Stage
from rushes.trace import Value, is_on, span
from rushes.types import GenerateRequest, Progress, Timing

if TYPE_CHECKING:
    from rushes.models.configs import WanConfig, WanVAEConfig
    from rushes.models.expert_pair import ExpertPair
    from rushes.models.text import TextEncoder
    from rushes.models.wan_vae import WanVAE


class Parts(Protocol):
    """The networks of one model, each loaded when first asked for and then kept.

    Every method may raise `CheckpointError` (the folder lacks this part, or it is damaged).
    """

    @property
    def transformer_config(self) -> WanConfig:
        """Shape of the transformers, known without their weights."""

    @property
    def vae_config(self) -> WanVAEConfig:
        """Shape of the VAE, known without its weights."""

    @property
    def identity(self) -> str:
        """A name for everything that decides a clip beside its request: equal for equal weights."""

    @property
    def encoder_revision(self) -> str:
        """A name for the text encoder: equal where it gives equal embeddings."""

    @property
    def loras(self) -> Sequence[str]:
        """Files that `experts` may be asked for."""

    def experts(self, lora: str | None = None) -> ExpertPair:
        """The transformer, or the two noise experts; with the LoRA of this file name fused into a copy."""

    def vae(self) -> WanVAE:
        """The VAE."""

    def text_encoder(self) -> TextEncoder:
        """The text encoder."""

    def expect(self, shapes: Sequence[ClipShape]) -> None:
        """Say which clips will come: networks that are loaded, and those that will be, get ready for them."""


class Pipeline(Protocol):
    """The ordered stages of one model."""

    name: str

    def job(
        self,
        request: GenerateRequest,
        given: Given,
        *,
        wants_video: bool = True,
        wants_preview: bool = False,
    ) -> Job:
        """A job for this request. Raises `InvalidRequest` when the checkpoint cannot run its mode or a given
        tensor does not fit it."""

    def current(self, job: Job) -> Stage | None:
        """The stage that has work for this job, None when it is finished."""

    def synchronize(self) -> None:
        """Wait until the device has done what the stages asked of it."""


def run(pipeline: Pipeline, job: Job) -> Iterator[Progress]:
    """Take a job to its end, alone, and report after every unit. Abandoning the iterator abandons the job."""
    while stage := pipeline.current(job):
        stage.prepare(job)
        begin = perf_counter()
        with unit_span(stage, [job]):
            stage.run([job])
        if pipeline.current(job) is not stage:
            # Devices run behind: without this a stage's work would be timed as the next one's. In the causal
            # mode stages take turns, long before they have done all their units.
            pipeline.synchronize()
        yield record_unit(job, stage, perf_counter() - begin)


@contextmanager
def unit_span(stage: Stage, jobs: Sequence[Job], /, **attributes: Value) -> Iterator[None]:
    """A span of the stage's name around `stage.run`: which noise expert it ran, and how many forwards.

    Args:
        attributes: more of the span.
    """
    if not is_on():
        yield
        return
    first = jobs[0]
    with span(stage.name, is_first=first.num_decoded == 0, batch=len(jobs), **attributes) as unit:
        expert = stage.key(first).expert
        if expert is None:
            yield
            return
        before = _forwards(jobs)
        unit.note(expert=expert, step=_num_units(first, stage))
        yield
        conditional, unconditional = _forwards(jobs)
        unit.note(conditional=conditional - before[0], unconditional=unconditional - before[1])


def _forwards(jobs: Sequence[Job]) -> tuple[int, int]:
    return sum(job.forwards.conditional for job in jobs), sum(job.forwards.unconditional for job in jobs)


def _num_units(job: Job, stage: Stage) -> int:
    timing = job.timings.get(stage.name)
    return timing.units if timing else 0


def record_unit(job: Job, stage: Stage, seconds: float) -> Progress:
    """Add one unit of `seconds` to the job's timings."""
    before = job.timings.get(stage.name, Timing(stage=stage.name, seconds=0.0, units=0))
    timing = Timing(stage=stage.name, seconds=before.seconds + seconds, units=before.units + 1)
    job.timings[stage.name] = timing
    return Progress(stage=stage.name, units=timing.units, total=stage.units(job), seconds=timing.seconds)
