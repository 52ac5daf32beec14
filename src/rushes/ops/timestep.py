"""Timesteps: their sinusoidal embedding, and the smallest form that says the same."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoidal_embedding(timestep: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """`[cos(t w), sin(t w)]` with `w_i = max_period^(-i / (dim / 2))`; [...] -> float32 [..., dim].

    Frequencies in float32, as diffusers computes them: float64 ones move the highest by 1e-4 at t = 1000.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=timestep.device)
    frequencies = torch.exp(-math.log(max_period) * steps / half)
    angles = timestep.float()[..., None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def collapse_timestep(timestep: Tensor, num_frames: int, num_tokens: int) -> Tensor:
    """The smallest [B, S], S in {1, T, N}, equal to [B], [B, T] (per latent frame) or [B, N] (per token).

    Equality is read from strides (an expanded tensor) and, on the CPU, from the values; a tensor on another
    device is not read, since that would wait for the device.

    Raises:
        ValueError: the second dimension is neither T nor N.
    """
    if timestep.ndim == 1:
        return timestep[:, None]
    if timestep.ndim != 2 or timestep.shape[1] not in (num_frames, num_tokens):
        shape, rule = tuple(timestep.shape), f"[B, {num_frames}] (frames) or [B, {num_tokens}] (tokens)"
        raise ValueError(f"timestep has shape {shape}; needs [B], {rule}")
    if _is_constant(timestep):
        return timestep[:, :1]
    frames = torch.unflatten(timestep, 1, (num_frames, -1))
    return frames[:, :, 0] if _is_constant(frames) else timestep


def _is_constant(values: Tensor) -> bool:
    if values.shape[-1] == 1 or values.stride(-1) == 0:
        return True
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool((values == values[..., :1]).all())
