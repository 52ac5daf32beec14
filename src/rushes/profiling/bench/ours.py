"""Rushes as a contender."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from rushes.pipelines.base import run
from rushes.pipelines.model import Model, load
from rushes.stages.base import DenoiseState, Given, Job
from rushes.types import Done, Event, GenerateRequest, Json

if TYPE_CHECKING:
    from rushes.profiling.bench.base import OnLatents, Place


class Rushes:
    """The library's own loop over one model, one clip at a time."""

    def __init__(self, model: Model, name: str = "rushes") -> None:
        self.model, self.name = model, name

    @property
    def settings(self) -> Mapping[str, Json]:
        """See `Contender`."""
        return {"device": str(self.model.device), "model": self.model.rules.name}

    def events(
        self, request: GenerateRequest, *, preview_every: int = 0, on_latents: OnLatents | None = None
    ) -> Iterator[Event]:
        """See `Contender`."""
        wants_preview = preview_every > 0 and request.mode == "full"
        job = self.model.pipeline.job(request, Given(), wants_preview=wants_preview)
        for progress in run(self.model.pipeline, job):
            if job.predicted is not None and progress.units % preview_every == 0:
                yield self.model.preview(job.predicted, progress)
            job.predicted = None
            latents = latents_of(job) if progress.stage == "denoise" else None
            if on_latents is not None and latents is not None:
                on_latents(latents)
            while job.frames:
                yield job.frames.popleft()
        yield Done(request=request, timings=tuple(job.timings.values()), forwards=job.forwards)


def latents_of(job: Job) -> torch.Tensor | None:
    """Of a job after a step: those in work, or the finished ones. A causal clip has whole latents at its end
    only: None before."""
    if isinstance(job.denoise, DenoiseState):
        return job.denoise.latents
    return torch.cat(job.latents, dim=2) if job.is_denoised else None


def open_rushes(place: Place) -> Rushes:
    """Load every part of the model. Raises as `rushes.load` does."""
    model = load(place.model, device=place.device, dtype=place.dtype, plan=place.plan)
    model.warm_up()
    return Rushes(model)
