"""Classifier-free guidance (Ho & Salimans, 2207.12598), with one scale per noise expert."""

from __future__ import annotations

from torch import Tensor

from rushes.sampling.schedules import NUM_TRAIN_TIMESTEPS
from rushes.types import SamplingParams


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """uncond + scale * (cond - uncond), in the inputs' dtype; at scale 1 it is `cond`."""
    return uncond + scale * (cond - uncond)


def is_high_noise(timestep: float, boundary: float | None) -> bool:
    """Whether the high-noise expert runs this timestep: t >= 1000 * boundary; always where there is one."""
    return boundary is None or timestep >= boundary * NUM_TRAIN_TIMESTEPS


def guidance_scale(sampling: SamplingParams, timestep: float, boundary: float | None) -> float:
    """The scale of the expert that runs this timestep."""
    return sampling.guidance_high if is_high_noise(timestep, boundary) else sampling.guidance_low
