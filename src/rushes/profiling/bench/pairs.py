"""Contenders in turn, A B A B, so that whatever else the machine does strikes both alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rushes.profiling.bench.base import Contender
from rushes.profiling.bench.figures import Ratio, ratio
from rushes.profiling.bench.measure import measure
from rushes.profiling.bench.seconds import ClipSeconds
from rushes.types import GenerateRequest

COMPARED = ("first_frame_s", "end_to_end_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Rounds in which every contender made the same clip, the first of them ours.

    Attributes:
        prompts, seeds: of each round.
        seconds: by contender, a clip a round.
        ratios: by rival, then by second: the rival's over ours.
        stage_ratios: by rival, then by stage that both have.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: dict[str, tuple[ClipSeconds, ...]]
    ratios: dict[str, dict[str, Ratio]]
    stage_ratios: dict[str, dict[str, Ratio]]


def run_pairs(
    contenders: Sequence[Contender],
    requests: Sequence[GenerateRequest],
    warm_up: GenerateRequest,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> Pairs:
    """Each contender makes one clip that is not counted, then all of them in turn, round after round.

    Args:
        requests: of each round, with different prompts, since we keep what we have encoded.
        warm_up: a clip of the same size, with yet another prompt.
    """
    for contender in contenders:
        measure(contender, warm_up)
    found: dict[str, list[ClipSeconds]] = {contender.name: [] for contender in contenders}
    for number, request in enumerate(requests, 1):
        for contender in contenders:
            seconds = measure(contender, request)
            found[contender.name].append(seconds)
            say(f"pair {number} of {len(requests)}: {contender.name} {seconds.end_to_end_s:.2f} s")
    ours, *rivals = found
    return Pairs(
        prompts=tuple(request.prompt for request in requests),
        seeds=tuple(request.sampling.seed for request in requests),
        seconds={name: tuple(clips) for name, clips in found.items()},
        ratios={rival: _ratios(found[ours], found[rival]) for rival in rivals},
        stage_ratios={rival: _stage_ratios(found[ours], found[rival]) for rival in rivals},
    )


def _ratios(ours: Sequence[ClipSeconds], theirs: Sequence[ClipSeconds]) -> dict[str, Ratio]:
    return {
        name: ratio([getattr(clip, name) for clip in ours], [getattr(clip, name) for clip in theirs])
        for name in COMPARED
    }


def _stage_ratios(ours: Sequence[ClipSeconds], theirs: Sequence[ClipSeconds]) -> dict[str, Ratio]:
    shared = [stage for stage in ours[0].stages_s if stage in theirs[0].stages_s]
    return {
        stage: ratio([clip.stages_s[stage] for clip in ours], [clip.stages_s[stage] for clip in theirs])
        for stage in shared
    }
