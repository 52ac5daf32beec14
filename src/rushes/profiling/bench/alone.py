"""One clip at a time with the device to itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rushes.profiling.bench.base import Contender
from rushes.profiling.bench.figures import Spread, spread
from rushes.profiling.bench.measure import measure
from rushes.profiling.bench.seconds import ClipSeconds
from rushes.types import GenerateRequest

SECONDS = ("first_preview_s", "first_frame_s", "end_to_end_s", "other_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """Clips made one after another.

    Attributes:
        prompts, seeds, clips: of each.
        seconds: by second, those that every clip has.
        stages_s: by stage.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    clips: tuple[ClipSeconds, ...]
    seconds: dict[str, Spread]
    stages_s: dict[str, Spread]


def run_alone(
    contender: Contender,
    requests: Sequence[GenerateRequest],
    warm_up: GenerateRequest,
    *,
    preview_every: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Alone:
    """One clip that is not counted, then the requests in order; arguments as of `run_pairs`."""
    measure(contender, warm_up, preview_every=preview_every)
    clips = []
    for number, request in enumerate(requests, 1):
        clips.append(measure(contender, request, preview_every=preview_every))
        say(f"clip {number} of {len(requests)}: {clips[-1].end_to_end_s:.2f} s")
    by_second = {name: [getattr(clip, name) for clip in clips] for name in SECONDS}
    return Alone(
        prompts=tuple(request.prompt for request in requests),
        seeds=tuple(request.sampling.seed for request in requests),
        clips=tuple(clips),
        seconds={name: spread(values) for name, values in by_second.items() if None not in values},
        stages_s={stage: spread([clip.stages_s[stage] for clip in clips]) for stage in clips[0].stages_s},
    )
