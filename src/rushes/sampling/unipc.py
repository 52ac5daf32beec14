"""UniPC of order 2, B(h) variant 2, predicting clean latents (Zhao et al., 2302.04867, algorithms 5-8)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rushes.sampling.base import Solver
from rushes.sampling.flow import log_snr, predict_clean
from rushes.sampling.history import History
from rushes.sampling.schedules import unipc_schedule

ORDER = 2


def unipc_step(
    velocity: Tensor,
    latents: Tensor,
    sigmas: Sequence[float],
    index: int,
    history: History | None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, History]:
    """Correct the latents with the new prediction, then predict the next. See `base.Step`.

    The first and the last step are of first order, as in diffusers with `lower_order_final`.
    """
    history = history or History()
    clean = (predict_clean(velocity, latents, sigmas[index]), *history.clean[: ORDER - 1])
    if history.last_latents is not None:
        latents = _correct(clean[0], history.last_latents, history.clean[: history.order], sigmas, index)
    order = min(ORDER, len(clean), len(sigmas) - 1 - index)
    predicted = _predict(latents, clean[:order], sigmas, index)
    return predicted, History(clean=clean, last_latents=latents, order=order)


def _predict(latents: Tensor, clean: Sequence[Tensor], sigmas: Sequence[float], index: int) -> Tensor:
    """UniP: from sigmas[index] to sigmas[index + 1] with the newest `clean` predictions, order len(clean)."""
    sigma, sigma_next = sigmas[index], sigmas[index + 1]
    h = log_snr(sigma_next) - log_snr(sigma)
    gain = (1 - sigma_next) * math.expm1(-h)
    mean = clean[0]
    if len(clean) == 2:
        ratio = (log_snr(sigmas[index - 1]) - log_snr(sigma)) / h
        mean = mean + (0.5 / ratio) * (clean[1] - clean[0])
    return (sigma_next / sigma) * latents - gain * mean


def _correct(
    newest: Tensor, last_latents: Tensor, clean: Sequence[Tensor], sigmas: Sequence[float], index: int
) -> Tensor:
    """UniC: redo the step that led to sigmas[index], now that the model has been evaluated there."""
    sigma, sigma_next = sigmas[index - 1], sigmas[index]
    h = log_snr(sigma_next) - log_snr(sigma)
    gain = (1 - sigma_next) * math.expm1(-h)
    mean = clean[0]
    weight = 0.5
    if len(clean) == 2:
        ratio = (log_snr(sigmas[index - 2]) - log_snr(sigma)) / h
        weight_past, weight = _corrector_weights(h, ratio)
        mean = mean + (weight_past / ratio) * (clean[1] - clean[0])
    mean = mean + weight * (newest - clean[0])
    return (sigma_next / sigma) * last_latents - gain * mean


def _corrector_weights(h: float, ratio: float) -> tuple[float, float]:
    """rho of the past and of the newest difference: [[1, 1], [r, 1]] rho = b, B(h) = e^-h - 1."""
    phi_1 = math.expm1(-h)
    phi_2 = phi_1 / -h - 1
    phi_3 = phi_2 / -h - 1 / 2
    b_1, b_2 = phi_2 / phi_1, 2 * phi_3 / phi_1
    weight_past = (b_1 - b_2) / (1 - ratio)
    return weight_past, b_1 - weight_past


UNIPC = Solver(
    name="unipc", title="UniPC, second order with corrector", schedule=unipc_schedule, step=unipc_step
)
