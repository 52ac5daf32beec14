"""Smaller requests than the one asked for: what would fit, by the pipeline's own rules."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil

from rushes.pipelines.rules import PipelineRules
from rushes.types import GenerateRequest

Change = tuple[str, int, int]
"""Field, asked for, given."""

Fits = Callable[[GenerateRequest], bool]
"""Whether a request can be taken. Of two that differ in one field, the smaller fits if the larger does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much less than was asked for is still what was asked for.

    Attributes:
        frames, side, steps: least part of the frames, of width and height, and of the solver steps.
    """

    frames: float = 0.5
    side: float = 0.5
    steps: float = 0.5


def degrade(
    request: GenerateRequest, rules: PipelineRules, fits: Fits, limits: Limits
) -> GenerateRequest | None:
    """The request with the fewest cuts that fits: first fewer frames, then also a smaller size, then also
    fewer steps; None when nothing within the limits does. Every candidate is valid by the rules. A smaller
    clip goes on from no source: that has another size, or other steps."""
    request = replace(request, source=None)
    cuts: tuple[Callable[[GenerateRequest], list[GenerateRequest]], ...] = (
        lambda asked: fewer_frames(asked, rules, limits.frames),
        lambda asked: smaller_sizes(asked, rules, limits.side),
        lambda asked: fewer_steps(asked, limits.steps),
    )
    for cut in cuts:
        candidates = cut(request)
        at = _first_that_fits(candidates, fits)
        if at < len(candidates):
            return candidates[at]
        request = candidates[-1] if candidates else request
    return None


def changes_between(asked: GenerateRequest, given: GenerateRequest) -> tuple[Change, ...]:
    """What was cut."""
    pairs = [
        (name, getattr(asked.video, name), getattr(given.video, name))
        for name in ("num_frames", "width", "height")
    ]
    steps = "num_inference_steps"
    pairs.append((steps, getattr(asked.sampling, steps), getattr(given.sampling, steps)))
    return tuple(pair for pair in pairs if pair[1] != pair[2])


def what_would_fit(request: GenerateRequest, rules: PipelineRules, fits: Fits) -> str:
    """In words that follow "would fit:"; the most frames at this size, or the largest size."""
    frames = fewer_frames(request, rules, 0.0)
    at = _first_that_fits(frames, fits)
    video = request.video
    if at < len(frames):
        return f"{frames[at].video.num_frames} frames of {video.width}x{video.height}"
    sizes = smaller_sizes(frames[-1] if frames else request, rules, 0.0)
    at = _first_that_fits(sizes, fits)
    if at < len(sizes):
        small = sizes[at].video
        return f"{small.num_frames} frame of {small.width}x{small.height}"
    return f"nothing of {rules.name}"


def fewer_frames(request: GenerateRequest, rules: PipelineRules, least: float) -> list[GenerateRequest]:
    """All valid numbers of frames below the request's, largest first, down to `least` of it."""
    num = request.video.num_frames
    stride = rules.fields["num_frames"].multiple
    floor = max(1, ceil(least * num))
    return [
        replace(request, video=replace(request.video, num_frames=frames))
        for frames in range(num - stride, floor - 1, -stride)
    ]


def smaller_sizes(request: GenerateRequest, rules: PipelineRules, least: float) -> list[GenerateRequest]:
    """Valid sizes below the request's of nearly its shape, largest first, down to `least` of each side."""
    multiple = rules.spatial_multiple
    columns, rows = request.video.width // multiple, request.video.height // multiple
    found = []
    for n in range(columns - 1, max(1, ceil(least * columns)) - 1, -1):
        video = replace(
            request.video, width=n * multiple, height=max(1, round(rows * n / columns)) * multiple
        )
        found.append(replace(request, video=video))
    return found


def fewer_steps(request: GenerateRequest, least: float) -> list[GenerateRequest]:
    """Fewer solver steps, most first; none where a distilled model fixes them."""
    sampling = request.sampling
    if sampling.timesteps is not None:
        return []
    num = sampling.num_inference_steps
    return [
        replace(request, sampling=replace(sampling, num_inference_steps=steps))
        for steps in range(num - 1, max(1, ceil(least * num)) - 1, -1)
    ]


def _first_that_fits(candidates: Sequence[GenerateRequest], fits: Fits) -> int:
    """Index of the first that fits, `len(candidates)` for none: they grow smaller, so it is bisected."""
    return bisect_left(candidates, True, key=fits)
