"""Where a request can go on from stored latents. No torch."""

from __future__ import annotations

from rushes.pipelines.rules import PipelineRules
from rushes.sampling.levels import schedule_of, step_at
from rushes.types import GenerateRequest


def resume_step(rules: PipelineRules, request: GenerateRequest, sigma: float) -> int | None:
    """The solver step with which a clip of this request goes on from latents of noise level `sigma`: the
    first that begins at or below it, so that a snapshot of that step of an equal schedule has just its level.

    None where the request cannot go on from there: in causal mode, above its second level, below its last,
    or where the low-noise expert would run the step.
    """
    if request.mode == "causal":
        return None
    return step_at(schedule_of(request.sampling), sigma, rules.boundary)


def resume_sigma(request: GenerateRequest, step: int) -> float:
    """The noise level at which a step of this request begins."""
    return schedule_of(request.sampling).sigmas[step]
