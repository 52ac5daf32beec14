"""Weights at rest: int8 with one scale a row, or int4 with one scale for every 32 numbers of a row.

A stored tensor `X` of dtype int8 or uint8 comes with `X.scale`. int8: X * scale, the scale broadcast over
it. uint8 [out, in/2]: two 4-bit numbers a byte, the low nibble first, each number + 8; scale [out, in/32].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

GROUP = 32


def quantize_int8(weight: Tensor) -> dict[str, Tensor]:
    """`weight` [out, ...] as int8 and `.scale` float32 [out, 1, ...]: weight = int8 * scale."""
    rows = weight.float().flatten(1)
    scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    codes = (rows / scale).round().clamp(-127, 127).to(torch.int8).view_as(weight)
    return {"": codes.contiguous(), ".scale": scale.view(-1, *[1] * (weight.ndim - 1)).contiguous()}


def quantize_int4(weight: Tensor) -> dict[str, Tensor]:
    """`weight` [out, in], in a multiple of 32, as uint8 [out, in/2] and `.scale` float16 [out, in/32].

    Of four clippings the one with the least squared error is kept, group by group.
    """
    groups = torch.unflatten(weight.float(), 1, (-1, GROUP))
    peak = groups.abs().amax(-1, keepdim=True).clamp_min(1e-7) / 7
    best_error = torch.full_like(peak, torch.inf)
    best_scale, best_codes = peak, torch.zeros_like(groups)
    for clip in (1.0, 0.93, 0.86, 0.8):
        scale = (peak * clip).half().float()
        codes = (groups / scale).round().clamp(-8, 7)
        error = (groups - codes * scale).square().sum(-1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
        best_codes = torch.where(better, codes, best_codes)
    nibbles = (best_codes.flatten(1) + 8).to(torch.uint8)
    return {"": nibbles[:, 0::2] | (nibbles[:, 1::2] << 4), ".scale": best_scale.squeeze(-1).half()}


def quantize_state(
    state: dict[str, Tensor], *, bits: int = 8, keep: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """A state dict at rest: matrices and kernels of >= 4,096 numbers quantised, the rest, and every name that
    contains a word of `keep`, in float32."""
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.ndim < 2 or tensor.numel() < 4096 or any(word in name for word in keep):
            stored[name] = tensor.float()
            continue
        parts = quantize_int4(tensor) if bits == 4 else quantize_int8(tensor)
        stored |= {name + suffix: part for suffix, part in parts.items()}
    return stored


def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """float32 values of int8 codes, or of two 4-bit codes a byte (uint8 [out, in/2] -> [out, in])."""
    if codes.dtype == torch.int8:
        return codes.float() * scale.float()
    numbers = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(1).float() - 8
    return (torch.unflatten(numbers, 1, (-1, GROUP)) * scale.float()[..., None]).flatten(1)


def restore(stored: Mapping[str, Tensor], name: str) -> Tensor:
    """The float32 tensor that was stored under `name`, at rest or plain."""
    scale = stored.get(f"{name}.scale")
    return stored[name].float() if scale is None else dequantize(stored[name], scale)
