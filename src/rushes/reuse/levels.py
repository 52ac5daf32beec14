"""The noise levels of a request's steps, without the solvers that need torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rushes.reuse.entries import Snapshot
from rushes.reuse.staircase import pick_step
from rushes.sampling.schedules import (
    Schedule,
    dpmpp_schedule,
    euler_schedule,
    fixed_schedule,
    uniform_schedule,
    unipc_schedule,
)
from rushes.types import LatentSource, SamplingParams

_SCHEDULES: Mapping[str, Callable[[int, float], Schedule]] = {
    "euler": euler_schedule,
    "unipc": unipc_schedule,
    "dpmpp-2m": dpmpp_schedule,
    "ddim": uniform_schedule,
    "lcm": euler_schedule,
}
_SAME = 1e-6
"""Levels of one schedule are equal in float32; those of two are further apart."""


def sigmas_of(sampling: SamplingParams) -> Sequence[float] | None:
    """Noise level before each step, and the terminal 0: `rushes.sampling.solvers.schedule_for`. None for a
    solver that a plug-in brought, whose schedule only a worker knows.

    Example:
        >>> from rushes.pipelines.rules import load_rules, resolve
        >>> request = resolve(load_rules("toy"), "a dog", solver="ddim", num_inference_steps=2, flow_shift=3)
        >>> sigmas_of(request.sampling)
        (1.0, 0.75, 0.0)
    """
    if sampling.timesteps is not None:
        return fixed_schedule(sampling.timesteps).sigmas
    schedule = _SCHEDULES.get(sampling.solver)
    return None if schedule is None else schedule(sampling.num_inference_steps, sampling.flow_shift).sigmas


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
