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
    head_dim = x.shape[-1]
    side = 2 * (head_dim // 6)
    out = torch.empty_like(x)
    for token in range(x.shape[1]):
        frame, cell = divmod(token, grid[1] * grid[2])
        row, column = divmod(cell, grid[2])
        first = 0
        for position, dim in ((frame + frame_offset, head_dim - 2 * side), (row, side), (column, side)):
            for i in range(0, dim, 2):
                pair = torch.view_as_complex(x[:, token, :, first + i : first + i + 2].contiguous())
                turn = torch.polar(
                    torch.ones((), dtype=x.dtype), torch.tensor(position * theta ** (-i / dim))
                )
                out[:, token, :, first + i : first + i + 2] = torch.view_as_real(pair * turn)
            first += dim
    return out
