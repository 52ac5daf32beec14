"""Rotary position embedding over (frame, row, column), as in Wan (RoFormer, arXiv:2104.09864, eq. 34)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotations of N tokens, float32 [N, head_dim] each.

    Channels 2i and 2i + 1 turn together: both hold their cosine in `cos`; `sin` holds (-sine, sine).
    """

    cos: Tensor
    sin: Tensor


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that turn with the frame, the row and the column: (44, 42, 42) for 128."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def rope_tables(
    grid: tuple[int, int, int],
    head_dim: int,
    *,
    theta: float = 10000.0,
    frame_offset: int = 0,
    device: torch.device | str | None = None,
) -> Rope:
    """Rotations of a `grid` of (frames, rows, columns) tokens, frame-major.

    Angles are built in float64: at position 1000 a float32 angle is wrong by 3e-5. MPS has no float64, so its
    tables are built on the CPU and copied as float32.

    Args:
        frame_offset: position of the first frame; a cached stream goes on where it stopped.

    Example:
        >>> rope_tables((2, 3, 4), 16).cos.shape
        torch.Size([24, 16])
    """
    starts = (frame_offset, 0, 0)
    build_device = "cpu" if device is not None and torch.device(device).type == "mps" else device
    angles = []
    for axis, (size, start, dim) in enumerate(zip(grid, starts, axis_dims(head_dim), strict=True)):
        shape = [1, 1, 1, dim // 2]
        shape[axis] = size
        angles.append(_angles(start, size, dim, theta, build_device).view(shape).expand(*grid, -1))
    table = torch.cat(angles, dim=-1).flatten(0, 2)
    sin = table.sin()
    return Rope(
        cos=table.cos().repeat_interleave(2, dim=-1).float().to(device),
        sin=torch.stack((-sin, sin), dim=-1).flatten(1).float().to(device),
    )


def _angles(start: int, size: int, dim: int, theta: float, device: torch.device | str | None) -> Tensor:
    positions = torch.arange(start, start + size, dtype=torch.float64, device=device)
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim
    return torch.outer(positions, theta**-exponents)


def swap_pairs(x: Tensor) -> Tensor:
    """The channels 1, 0, 3, 2, ... of x [..., D]."""
    return torch.unflatten(x, -1, (-1, 2)).flip(-1).flatten(-2)


def swap_pairs_by_product(x: Tensor) -> Tensor:
    """The same by a product with zeros and ones, exact where products are taken in the precision of x: for
    engines that run a `flip` cell by cell."""
    return x @ swap_pairs(torch.eye(x.shape[-1], device=x.device))


def apply_rope(x: Tensor, rope: Rope, swap: Callable[[Tensor], Tensor] = swap_pairs) -> Tensor:
    """Turn the channel pairs (0, 1), (2, 3), ... of x [B, N, H, D]; x should be float32."""
    return torch.addcmul(x * rope.cos[:, None], swap(x), rope.sin[:, None])
