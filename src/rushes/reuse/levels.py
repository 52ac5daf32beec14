"""From a noise level to the step of a request that goes on from stored latents. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from rushes.reuse.entries import Snapshot
from rushes.reuse.staircase import pick_step
from rushes.sampling.levels import SCHEDULES, schedule_of
from rushes.sampling.schedules import Schedule
from rushes.types import LatentSource, SamplingParams

_SAME = 1e-6
"""Levels of one schedule are equal in float32; those of two are further apart."""


def known_schedule(sampling: SamplingParams) -> Schedule | None:
    """None for a solver that a plug-in brought: only workers can load it."""
    is_known = sampling.timesteps is not None or sampling.solver in SCHEDULES
    return schedule_of(sampling) if is_known else None


def lowest_kept(sigmas: Sequence[float], lowest: float, boundary: float | None) -> float:
    """The noise level down to which snapshots may be taken for `lowest`. Workers keep a clip before the first
    step at or below a level; so with one expert that step's level will do, which is less than a step lower.
    With two it is never lower: the high-noise expert has to have its part.

    Example:
        >>> lowest_kept((1.0, 0.84, 0.78, 0.5, 0.0), 0.8, None)
        0.78
        >>> lowest_kept((1.0, 0.84, 0.78, 0.5, 0.0), 0.8, 0.8)
        0.8
    """
    if boundary is not None:
        return lowest
    return next((sigma for sigma in sigmas[:-1] if sigma <= lowest), lowest)


def source_at(
    snapshot: Snapshot, sigmas: Sequence[float], *, is_renoised: bool, mask: str | None = None
) -> LatentSource | None:
    """How a clip goes on from a snapshot; None where no step would be saved.

    As it stood only where the clip has a step at that very level; otherwise it is noised again, to the level
    of the latest step at or above it.

    Args:
        is_renoised: noise it again in any case, since the clip's seed is to mean something.
    """
    is_same = snapshot.step < len(sigmas) - 1 and abs(sigmas[snapshot.step] - snapshot.sigma) <= _SAME
    step = snapshot.step if is_same else pick_step(sigmas, snapshot.sigma)
    if step == 0:
        return None
    return LatentSource(
        name=snapshot.name,
        sigma=snapshot.sigma,
        step=step,
        is_renoised=is_renoised or not is_same,
        mask=mask,
    )
