"""First-order solvers: Euler, and DDIM in its flow form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rushes.sampling.base import Solver
from rushes.sampling.flow import predict_clean
from rushes.sampling.history import History
from rushes.sampling.schedules import euler_schedule, uniform_schedule


def euler_step(
    velocity: Tensor,
    latents: Tensor,
    sigmas: Sequence[float],
    index: int,
    history: History | None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, History | None]:
    """x' = x + (sigma' - sigma) * v. See `base.Step`."""
    assert latents.dtype == torch.float32, f"solvers run on float32 latents, got {latents.dtype}"
    return latents + (sigmas[index + 1] - sigmas[index]) * velocity.float(), history


def ddim_step(
    velocity: Tensor,
    latents: Tensor,
    sigmas: Sequence[float],
    index: int,
    history: History | None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, History | None]:
    """x' = (1 - sigma') * clean + sigma' * noise, both as the model predicts them (Song et al., 2010.02502,
    eq. 12 with eta = 0, on a linear path). See `base.Step`."""
    clean = predict_clean(velocity, latents, sigmas[index])
    noise = clean + velocity.float()
    return torch.lerp(clean, noise, sigmas[index + 1]), history


EULER = Solver(name="euler", title="Euler, first order", schedule=euler_schedule, step=euler_step)

DDIM = Solver(
    name="ddim",
    title="DDIM in flow form: Euler on evenly spaced levels",
    schedule=uniform_schedule,
    step=ddim_step,
)
