"""One clip and what it took, and what several tell together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rushes.pipelines.model import Model
from rushes.profiling.bench.ours import Rushes
from rushes.profiling.bench.quality import Difference, Made
from rushes.profiling.ladder import Figures
from rushes.types import Done, Frames, GenerateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRun:
    """One clip and what it took.

    Attributes:
        stages_s: by stage, text encoding aside, which is kept between clips.
        forwards: conditional and unconditional ones.
    """

    made: Made
    stages_s: Mapping[str, float]
    forwards: tuple[int, int]

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(self.stages_s.values())


def run_clip(model: Model, request: GenerateRequest) -> ClipRun:
    """Make the clip of a request."""
    latents: list[torch.Tensor] = []
    frames, done = [], None
    for event in Rushes(model).events(request, on_latents=lambda tensor: _keep_last(latents, tensor)):
        if isinstance(event, Frames):
            frames.append(event)
        elif isinstance(event, Done):
            done = event
    assert done is not None, "a clip ends with Done"
    timings = {timing.stage: timing.seconds for timing in done.timings if timing.stage != "text_encode"}
    return ClipRun(
        made=_made(frames, latents),
        stages_s=timings,
        forwards=(done.forwards.conditional, done.forwards.unconditional),
    )


def _keep_last(latents: list[torch.Tensor], tensor: torch.Tensor) -> None:
    latents[:] = [tensor]


def _made(frames: Sequence[Frames], latents: Sequence[torch.Tensor]) -> Made:
    last = tuple(tensor.float().cpu() for tensor in latents)
    return Made(frames=np.concatenate([each.frames for each in frames]), latents=last)


def noise_of(pairs: Sequence[tuple[ClipRun, ClipRun]]) -> float:
    """By what share two runs of the same work differ at most.

    The greatest rather than the mean: with two or three pairs a bar at the mean would let half of the
    passes through that do nothing.
    """
    return math.exp(max(abs(math.log(one.seconds / other.seconds)) for one, other in pairs)) - 1


def figures_of(
    runs: Sequence[ClipRun], before: Sequence[ClipRun], found: Difference, first_s: float, peak_gb: float
) -> Figures:
    """Of clips and the same clips of the plan before, pair by pair."""
    stages = {name: statistics.median(run.stages_s[name] for run in runs) for name in runs[0].stages_s}
    counts = list(zip(*(run.forwards for run in runs), strict=True))
    return Figures(
        seconds=statistics.median(run.seconds for run in runs),
        stages_s=stages,
        before_s=statistics.median(run.seconds for run in before),
        ratios=tuple(old.seconds / new.seconds for old, new in zip(before, runs, strict=True)),
        first_s=first_s,
        psnr_db=found.comparison.psnr_db,
        latent_l1=found.latent_l1,
        forwards=(statistics.mean(counts[0]), statistics.mean(counts[1])),
        peak_gb=peak_gb,
    )
