"""Classifier-free guidance (Ho & Salimans, 2207.12598), and which noise expert, with its scale, runs when.

No torch at run time: a cost model counts forwards by these rules too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rushes.sampling.schedules import NUM_TRAIN_TIMESTEPS

if TYPE_CHECKING:
    from torch import Tensor


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """uncond + scale * (cond - uncond), in the inputs' dtype; at scale 1 it is `cond`."""
    return uncond + scale * (cond - uncond)


def is_high_noise(timestep: float, boundary: float | None) -> bool:
    """Whether the high-noise expert runs this timestep: t >= 1000 * boundary; always where there is one."""
    return boundary is None or timestep >= boundary * NUM_TRAIN_TIMESTEPS
