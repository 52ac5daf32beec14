"""A static mask of blocks over a video's tokens: fewer pixels' worth of keys the further away a frame is.

The rule is Radial Attention's (arXiv:2506.19852, eq. 5): with s tokens a frame, a query sees the keys whose
place in the frame differs by at most c * s / 2^floor(log2 max(d, 1)) tokens, d being how many frames lie
between; c is what `RadialMask.density` fixes. Own frame, first frames and same place are always seen. The
rule decides for whole blocks of tokens, so a kernel skips what it drops. A mask is a value, made once
for each grid and kept; it belongs to no job.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rushes.ops.patch import Size3


@dataclass(frozen=True, slots=True, kw_only=True)
class RadialMask:
    """Which blocks of keys a block of queries sees.

    Attributes:
        density: share of all pairs of tokens that may be kept at most. A grid whose `floor_density` is higher
            keeps that much: a clip of one latent frame stays dense.
        block: tokens of a block of queries.
        key_block: the same of keys; None for `block`.
        sink_frames: first latent frames that every query sees.
    """

    density: float
    block: int = 128
    key_block: int | None = None
    sink_frames: int = 1

    @property
    def keys(self) -> int:
        """Tokens of a block of keys."""
        return self.block if self.key_block is None else self.key_block


@lru_cache(maxsize=16)
def kept_blocks(mask: RadialMask, grid: Size3) -> Tensor:
    """bool [blocks of queries, blocks of keys] on the CPU; shared, not to be written to."""
    needed = _needed_width(mask, grid)
    if mask.density >= 1:
        return torch.ones_like(needed, dtype=torch.bool)
    weights = _pair_share(mask, grid)
    order = needed.flatten().argsort(stable=True)
    shares = weights.flatten()[order].cumsum(0)
    num_kept = int((shares <= mask.density + 1e-9).sum())
    # Pairs of equal distance stand or fall together, and those at no distance always stand.
    widths = needed.flatten()[order]
    width = float(widths[num_kept]) if num_kept < len(widths) else float("inf")
    return needed <= 0 if width <= 0 else needed < width


def density_of(mask: RadialMask, grid: Size3) -> float:
    """Share of all pairs of tokens that the mask keeps on this grid."""
    return float((kept_blocks(mask, grid) * _pair_share(mask, grid)).sum())


def floor_density(mask: RadialMask, grid: Size3) -> float:
    """Share that is kept whatever the density asked for: own frame, first frames, same place."""
    return float(((_needed_width(mask, grid) <= 0) * _pair_share(mask, grid)).sum())


def token_mask(mask: RadialMask, grid: Size3) -> Tensor:
    """bool [N, N] on the CPU: the same for single tokens."""
    num_tokens = grid[0] * grid[1] * grid[2]
    whole = kept_blocks(mask, grid).repeat_interleave(mask.block, 0).repeat_interleave(mask.keys, 1)
    return whole[:num_tokens, :num_tokens]


def _needed_width(mask: RadialMask, grid: Size3) -> Tensor:
    """The smallest c of the module's rule that keeps a pair of blocks, 0 where it is always kept."""
    per_frame = grid[1] * grid[2]
    queries, keys = (_samples(grid, block) for block in (mask.block, mask.keys))
    needed = torch.full((queries.shape[1], keys.shape[1]), float("inf"))
    decay = torch.tensor([1 << max(apart, 1).bit_length() - 1 for apart in range(grid[0])])
    for query in queries:
        for key in keys:
            apart = (query[:, None] // per_frame - key // per_frame).abs()
            shift = (query[:, None] % per_frame - key % per_frame).abs() * decay[apart]
            needed = torch.minimum(needed, shift / per_frame)
    (first, _, last), (first_key, _, last_key) = queries // per_frame, keys // per_frame
    is_own = (first[:, None] <= last_key) & (first_key <= last[:, None])
    is_sink = (first_key < mask.sink_frames).expand_as(is_own)
    return needed.masked_fill(is_own | is_sink, 0)


def _samples(grid: Size3, block: int) -> Tensor:
    """First, middle and last token of every block, [3, blocks]."""
    num_tokens = grid[0] * grid[1] * grid[2]
    starts = torch.arange(0, num_tokens, block)
    ends = (starts + block).clamp_max(num_tokens) - 1
    return torch.stack((starts, (starts + ends) // 2, ends))


def _pair_share(mask: RadialMask, grid: Size3) -> Tensor:
    """Share of all pairs of tokens that lies in each pair of blocks; the last block may be a short one."""
    first, _, last = _samples(grid, mask.block)
    first_key, _, last_key = _samples(grid, mask.keys)
    num_tokens = grid[0] * grid[1] * grid[2]
    return torch.outer(
        (last + 1 - first).double() / num_tokens, (last_key + 1 - first_key).double() / num_tokens
    )
