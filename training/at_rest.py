"""Weights at rest: int8 with one scale a row, or int4 with one scale for every 32 numbers of a row."""

from __future__ import annotations

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
    """`weight` [out, in], in a multiple of 32, as uint8 [out, in/2] (low nibble first, code + 8) and `.scale`
    float16 [out, in/32]. Of four clippings the one with the least squared error is kept, group by group."""
    groups = weight.float().unflatten(1, (-1, GROUP))
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
    """A state dict at rest: matrices and kernels of >= 4,096 numbers quantised, the rest (and every name that
    contains a word of `keep`) float16 where it loses nothing by it, else float32."""
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.ndim < 2 or tensor.numel() < 4096 or any(word in name for word in keep):
            stored[name] = tensor.float()
            continue
        parts = quantize_int4(tensor) if bits == 4 else quantize_int8(tensor)
        stored |= {name + suffix: part for suffix, part in parts.items()}
    return stored


def restore(stored: dict[str, Tensor], name: str) -> Tensor:
    """The float32 tensor that was stored under `name`, as `quantize_int8` or `quantize_int4` left it."""
    tensor = stored[name]
    if name + ".scale" not in stored:
        return tensor.float()
    scale = stored[name + ".scale"].float()
    if tensor.dtype == torch.int8:
        return tensor.float() * scale
    codes = torch.stack([tensor & 15, tensor >> 4], -1).flatten(1).float() - 8
    return (codes.unflatten(1, (-1, GROUP)) * scale[..., None]).flatten(1)
