"""Noise levels at which clips are kept and taken up again, as steps of a schedule. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rushes.sampling.guidance import is_high_noise
from rushes.sampling.schedules import (
    Schedule,
    dpmpp_schedule,
    euler_schedule,
    fixed_schedule,
    uniform_schedule,
    unipc_schedule,
)
from rushes.types import SamplingParams

LEVELS = (0.97, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Noise levels at which clips are kept, where nobody says otherwise."""

SCHEDULES: Mapping[str, Callable[[int, float], Schedule]] = {
    "euler": euler_schedule,
    "unipc": unipc_schedule,
    "dpmpp-2m": dpmpp_schedule,
    "ddim": uniform_schedule,
    "lcm": euler_schedule,
}
"""Of our own solvers, by name: `Solver.schedule`, which cannot be read without loading torch."""

_ROUNDING = 1e-6


def schedule_of(sampling: SamplingParams) -> Schedule:
    """As `rushes.sampling.solvers.schedule_for`; loads a solver, and torch, only for a plug-in's.

    Example:
        >>> fields = {"flow_shift": 3.0, "guidance_high": 1.0, "guidance_low": 1.0, "seed": 0}
        >>> schedule_of(SamplingParams(num_inference_steps=4, solver="ddim", **fields)).sigmas[:2]
        (1.0, 0.8999999761581421)
    """
    if sampling.timesteps is not None:
        return fixed_schedule(sampling.timesteps)
    schedule = SCHEDULES.get(sampling.solver)
    if schedule is None:
        from rushes.sampling.solvers import schedule_for

        return schedule_for(sampling)
    return schedule(sampling.num_inference_steps, sampling.flow_shift)


def step_at(schedule: Schedule, sigma: float, boundary: float | None = None) -> int | None:
    """The first step that begins at or below this noise level; None where there is none, where it is the very
    first, which has nothing to go on from, or where the low-noise expert runs it.

    Args:
        boundary: noise level of 0..1 at and above which the high-noise expert runs; None for one expert.

    Example:
        >>> from rushes.sampling.schedules import unipc_schedule
        >>> step_at(unipc_schedule(4, 3.0), 0.8)
        2
    """
    for step, level in enumerate(schedule.sigmas[:-1]):
        if level <= sigma + _ROUNDING:
            is_high = is_high_noise(schedule.timesteps[step], boundary)
            return step if step > 0 and is_high else None
    return None


def steps_at(schedule: Schedule, levels: Sequence[float], boundary: float | None = None) -> frozenset[int]:
    """`step_at` of each level that has one."""
    steps = (step_at(schedule, level, boundary) for level in levels)
    return frozenset(step for step in steps if step is not None)
