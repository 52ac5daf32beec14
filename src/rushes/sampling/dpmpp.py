"""DPM-Solver++ (2M), midpoint form, predicting clean latents (Lu et al., 2211.01095, algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rushes.sampling.base import Solver
from rushes.sampling.flow import log_snr, predict_clean
from rushes.sampling.history import History
from rushes.sampling.schedules import dpmpp_schedule


def dpmpp_2m_step(
    velocity: Tensor,
    latents: Tensor,
    sigmas: Sequence[float],
    index: int,
    history: History | None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, History]:
    """One step of second order; the first and the last (to 0, where log-SNR is infinite) of first order.
    See `base.Step`."""
    sigma, sigma_next = sigmas[index], sigmas[index + 1]
    clean = predict_clean(velocity, latents, sigma)
    h = log_snr(sigma_next) - log_snr(sigma)
    order = 1 if history is None or sigma_next == 0 else 2
    mean = clean
    if history is not None and order == 2:
        ratio = (log_snr(sigma) - log_snr(sigmas[index - 1])) / h
        mean = clean + (0.5 / ratio) * (clean - history.clean[0])
    latents = (sigma_next / sigma) * latents - (1 - sigma_next) * math.expm1(-h) * mean
    return latents, History(clean=(clean,), order=order)


DPMPP_2M = Solver(
    name="dpmpp-2m", title="DPM-Solver++ 2M, second order", schedule=dpmpp_schedule, step=dpmpp_2m_step
)
