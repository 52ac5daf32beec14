"""What the judge says of a bench's toy clips: adherence to the prompts, and distances between sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rushes.profiling.quality.frechet import MAX_WIDTH, FrechetDistance, frechet_distance
from rushes.profiling.quality.judged import ClipJudge, Share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Clip = NDArray[np.uint8]

BATCH = 16
"""Clips that the judge looks at together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Of one set of clips.

    Attributes:
        adherence: how often the judge reads what the prompts ask for, by attribute and for all of them.
        distance: Fréchet distance to the reference's clips over the judge's features; None for the
            reference itself, and for so few clips that their covariances say nothing.
    """

    adherence: dict[str, Share]
    distance: FrechetDistance | None


def judge_sets(
    sets: Mapping[str, Sequence[Clip]], asked: Sequence[Mapping[str, int]], judge: ClipJudge
) -> dict[str, Judged]:
    """Every set by its name, the first being the reference.

    Args:
        sets: clips of the same prompts in the same order.
        asked: the classes that each prompt asks for.

    Raises:
        InvalidRequest: clips of another length than the judge reads.
    """
    reference, *_ = sets
    has_distances = len(asked) > MAX_WIDTH
    features = {name: _features(judge, clips) for name, clips in sets.items() if has_distances}
    return {
        name: Judged(
            adherence=judge.adherence([judge.read(clip) for clip in clips], asked),
            distance=frechet_distance(features[reference], features[name])
            if has_distances and name != reference
            else None,
        )
        for name, clips in sets.items()
    }


def _features(judge: ClipJudge, clips: Sequence[Clip]) -> NDArray[np.float64]:
    starts = range(0, len(clips), BATCH)
    batches = (torch.from_numpy(np.stack(clips[start : start + BATCH])) for start in starts)
    return np.concatenate([judge.features(batch) for batch in batches])
