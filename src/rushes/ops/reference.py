"""The slow spec of every kernel in `rushes.ops`, written as its equation says; tests compare against it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rushes.ops.experts import Routing


def attention_loop(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, one sample and head at a time; allowed: boolean [N, M]."""
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            scores = q[b, :, h] @ k[b, :, h].T / q.shape[-1] ** 0.5
            if allowed is not None:
                scores = scores.masked_fill(~allowed, float("-inf"))
            out[b, :, h] = scores.softmax(-1) @ v[b, :, h]
    return out


def experts_loop(x: Tensor, routing: Routing, up: Tensor, down: Tensor) -> Tensor:
    """Token by token: the sum over its picked experts e of `gate_e * down_e gelu(up_e x)`."""
    out = torch.zeros_like(x)
    for m in range(x.shape[0]):
        for e, gate in zip(routing.experts[m].tolist(), routing.gates[m], strict=True):
            out[m] += gate * (down[e] @ F.gelu(up[e] @ x[m], approximate="tanh"))
    return out


def rope_loop(x: Tensor, grid: tuple[int, int, int], theta: float = 10000.0, frame_offset: int = 0) -> Tensor:
    """Turn each channel pair as a complex number, token by token; x [B, N, H, D] float64."""
    pairs = torch.view_as_complex(torch.unflatten(x, -1, (-1, 2)))
    side = 2 * (x.shape[-1] // 6)
    dims = (x.shape[-1] - 2 * side, side, side)
    out = torch.empty_like(pairs)
    for token in range(x.shape[1]):
        frame, cell = divmod(token, grid[1] * grid[2])
        position = (frame + frame_offset, cell // grid[2], cell % grid[2])
        angles = [
            p * theta ** (-i / dim) for p, dim in zip(position, dims, strict=True) for i in range(0, dim, 2)
        ]
        out[:, token] = pairs[:, token] * torch.exp(1j * torch.tensor(angles, dtype=torch.float64))
    return torch.view_as_real(out).flatten(-2)
