"""Flow-matching schedules: which noise levels a job passes through and which timestep the model sees at each.

Every schedule spaces levels u evenly, shifts them by sigma = s*u / (1 + (s-1)*u) (Esser et al., 2403.03206,
eq. 23) and ends at 0. They differ in the ends of u and in rounding, and follow the diffusers scheduler of the
same name, so that the model is given the timesteps that diffusers' WanPipeline would give it. N = 1000:

| schedule | u, n steps | timestep | diffusers |
|---|---|---|---|
| `unipc_schedule` | 1 .. 1/N, n+1 points, last dropped; sigma < 1 | truncated to whole | UniPCMultistep |
| `dpmpp_schedule` | 1 - 1/N .. 0, n+1 points, last dropped | truncated to whole | DPMSolverMultistep |
| `euler_schedule` | 1 .. shift(1/N), n points | sigma * N | FlowMatchEulerDiscrete, FlowMatchLCM |
| `uniform_schedule` | 1 .. 0, n+1 points, last dropped | sigma * N | FlowMatchEulerDiscrete given `sigmas` |

Wan's own code runs UniPC and DPM++ both on the second row. It agrees with diffusers for DPM++; for UniPC
diffusers' u is larger by 1/N at every step, and diffusers is followed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_TRAIN_TIMESTEPS = 1000
"""Timestep of pure noise; a model is given t = 1000 * sigma."""

_MAX_SIGMA = 1 - 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The noise levels of one job.

    Attributes:
        timesteps: what the model is given at each step, in [0, 1000], falling.
        sigmas: noise level before each step, and the terminal 0: one more than `timesteps`. The values are
            exact in float32, so float32 and float64 arithmetic start from the same numbers.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]

    def __len__(self) -> int:
        """Number of solver steps."""
        return len(self.timesteps)


def shift_sigma(sigma: float, shift: float) -> float:
    """sigma' = s*sigma / (1 + (s-1)*sigma): more steps at high noise as the shift s grows; 1 changes nothing.

    Example:
        >>> from rushes.sampling.schedules import shift_sigma
        >>> shift_sigma(0.5, 3.0)
        0.75
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def unipc_schedule(num_steps: int, shift: float) -> Schedule:
    """The schedule of diffusers' UniPCMultistepScheduler with `use_flow_sigmas`."""
    sigmas = _shift(np.linspace(1.0, 1 / NUM_TRAIN_TIMESTEPS, num_steps + 1)[:-1], shift)
    return _schedule(np.minimum(sigmas, _MAX_SIGMA), is_whole=True)


def dpmpp_schedule(num_steps: int, shift: float) -> Schedule:
    """The schedule of Wan's own code and of diffusers' DPMSolverMultistepScheduler on flow sigmas."""
    levels = 1.0 - np.linspace(1.0, 1 / NUM_TRAIN_TIMESTEPS, num_steps + 1)
    return _schedule(_shift(levels, shift)[:0:-1], is_whole=True)


def euler_schedule(num_steps: int, shift: float) -> Schedule:
    """The schedule of diffusers' FlowMatchEulerDiscreteScheduler when it is given a number of steps.

    Its last level before 0 is 1/N shifted twice: with few steps and a small shift the last step is spent on
    almost no noise. `uniform_schedule` has no such step.
    """
    last = _shift(np.full(1, 1 / NUM_TRAIN_TIMESTEPS, np.float32), shift)[0]
    timesteps = np.linspace(NUM_TRAIN_TIMESTEPS, float(last) * NUM_TRAIN_TIMESTEPS, num_steps)
    return _schedule(_shift(timesteps / NUM_TRAIN_TIMESTEPS, shift), is_whole=False)


def uniform_schedule(num_steps: int, shift: float) -> Schedule:
    """Levels 1, 1 - 1/n, .. 1/n, shifted: every step covers an equal share of the unshifted range."""
    return _schedule(_shift(np.linspace(1.0, 0.0, num_steps + 1)[:-1], shift), is_whole=False)


def fixed_schedule(timesteps: Sequence[float]) -> Schedule:
    """The schedule of a distilled model: the timesteps as the model is to see them, after any shift.

    Raises:
        ValueError: they do not fall strictly within (0, 1000].
    """
    levels = np.asarray(timesteps, np.float64) / NUM_TRAIN_TIMESTEPS
    if len(levels) == 0 or levels[0] > 1 or levels[-1] <= 0 or not (np.diff(levels) < 0).all():
        raise ValueError(f"timesteps must fall strictly within (0, 1000], got {tuple(timesteps)}")
    return _schedule(levels, is_whole=False)


def shift_timesteps(positions: Sequence[float], shift: float) -> tuple[float, ...]:
    """Timesteps that were listed before the shift, as the model sees them after it."""
    return tuple(
        NUM_TRAIN_TIMESTEPS * shift_sigma(position / NUM_TRAIN_TIMESTEPS, shift) for position in positions
    )


def _shift(levels: NDArray[np.floating], shift: float) -> NDArray[np.floating]:
    return shift * levels / (1 + (shift - 1) * levels)


def _schedule(sigmas: NDArray[np.floating], *, is_whole: bool) -> Schedule:
    rounded = sigmas.astype(np.float32)
    if is_whole:
        timesteps = (sigmas * NUM_TRAIN_TIMESTEPS).astype(np.int64).astype(np.float32)
    else:
        timesteps = rounded * NUM_TRAIN_TIMESTEPS
    return Schedule(timesteps=tuple(timesteps.tolist()), sigmas=(*rounded.tolist(), 0.0))
