"""The re-noise sampler of consistency and distribution-matching distilled models (Luo et al., 2310.04378,
algorithm 3; Yin et al., 2405.14867): predict the clean latents, then noise them afresh to the next level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rushes.sampling.base import Solver
from rushes.sampling.flow import predict_clean
from rushes.sampling.history import History
from rushes.sampling.noise import noise_like
from rushes.sampling.schedules import euler_schedule


def lcm_step(
    velocity: Tensor,
    latents: Tensor,
    sigmas: Sequence[float],
    index: int,
    history: History | None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, History | None]:
    """x' = (1 - sigma') * clean + sigma' * fresh noise; the last step draws none. See `base.Step`."""
    sigma_next = sigmas[index + 1]
    clean = predict_clean(velocity, latents, sigmas[index])
    if sigma_next == 0:
        return clean, history
    assert generator is not None, "lcm draws noise: pass noise.step_generator(seed, index)"
    return torch.lerp(clean, noise_like(clean, generator), sigma_next), history


LCM = Solver(
    name="lcm",
    title="LCM / DMD re-noise, stochastic, for distilled models",
    schedule=euler_schedule,
    step=lcm_step,
    is_stochastic=True,
)
