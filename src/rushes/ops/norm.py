"""Norms and adaptive modulation, all in float32 whatever the matmuls run in.

Modulation is `[B, S, 1, d]`: S = 1 for a vector per sample, the number of latent frames for one per frame, or
the number of tokens. The tokens are viewed as `[B, S, N / S, d]`, so it is broadcast, never expanded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension, in float32 (arXiv:1910.07467)."""
    return F.rms_norm(x.float(), weight.shape, weight, eps)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float) -> Tensor:
    """LayerNorm over the last dimension, in float32 (arXiv:1607.06450)."""
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps)


def modulated_layer_norm(x: Tensor, shift: Tensor, scale: Tensor, *, eps: float) -> Tensor:
    """`layer_norm(x) * (1 + scale) + shift` (adaLN, arXiv:2212.09748); x [B, N, d], float32 out."""
    frames = torch.unflatten(layer_norm(x, eps=eps), 1, (shift.shape[1], -1))
    return torch.addcmul(shift, frames, 1 + scale).flatten(1, 2)


def gated_add(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """`x + y * gate` with x, y [B, N, d]; x is the float32 residual stream."""
    split = (gate.shape[1], -1)
    return torch.addcmul(torch.unflatten(x, 1, split), torch.unflatten(y, 1, split), gate).flatten(1, 2)
