"""Rectified flow: x = (1 - sigma) * clean + sigma * noise, v = noise - clean (Liu et al., 2209.03003)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def predict_clean(velocity: Tensor, latents: Tensor, sigma: float) -> Tensor:
    """The clean latents that `velocity` points at, float32: x0 = x - sigma * v."""
    assert latents.dtype == torch.float32, f"solvers run on float32 latents, got {latents.dtype}"
    return latents - sigma * velocity.float()


def log_snr(sigma: float) -> float:
    """lambda = log((1 - sigma) / sigma), the variable in which multistep solvers are polynomial; inf at 0.

    Pure noise has lambda = -inf; it is read as sigma = 1 - 1e-6, as diffusers does.
    """
    if sigma == 0.0:
        return math.inf
    sigma = min(sigma, 1 - 1e-6)
    return math.log1p(-sigma) - math.log(sigma)
