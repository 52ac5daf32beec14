"""Static block-sparse self-attention over a video: fewer pixels' worth of keys the further away a frame is.

The rule is Radial Attention's (arXiv:2506.19852, eq. 5): with s tokens a frame, a query sees the keys whose
place in the frame differs by at most c * s / 2^floor(log2 max(d, 1)) tokens, d being how many frames lie
between; c is what `RadialMask.density` fixes. Own frame, first frames and same place are always seen. The
rule decides for whole blocks of tokens, so a kernel skips what it drops. A mask is a value, made once
for each grid and kept; it belongs to no job.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from rushes.errors import ConfigError
from rushes.ops.attention import attention
from rushes.ops.patch import Size3

KERNEL_BLOCK = 128
"""Tokens of the GPU kernel's blocks; a mask for it has blocks of a multiple of them."""

LONGEST_REFERENCE = 16384
"""Tokens whose full mask is still made: 268 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RadialMask:
    """Which blocks of keys a block of queries sees.

    Attributes:
        density: share of all pairs of tokens that may be kept at most. A grid whose `floor_density` is higher
            keeps that much: a clip of one latent frame stays dense.
        block: tokens of a block.
        sink_frames: first latent frames that every query sees.
    """

    density: float
    block: int = KERNEL_BLOCK
    sink_frames: int = 1


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
    whole = kept_blocks(mask, grid).repeat_interleave(mask.block, 0).repeat_interleave(mask.block, 1)
    return whole[:num_tokens, :num_tokens]


def _needed_width(mask: RadialMask, grid: Size3) -> Tensor:
    """The smallest c of the module's rule that keeps a pair of blocks, 0 where it is always kept."""
    num_tokens, per_frame = grid[0] * grid[1] * grid[2], grid[1] * grid[2]
    starts = torch.arange(0, num_tokens, mask.block)
    ends = (starts + mask.block).clamp_max(num_tokens) - 1
    samples = torch.stack((starts, (starts + ends) // 2, ends))
    frames, places = samples // per_frame, samples % per_frame
    needed = torch.full((len(starts), len(starts)), float("inf"))
    decay = torch.tensor([1 << max(apart, 1).bit_length() - 1 for apart in range(grid[0])])
    for query_frame, query_place in zip(frames, places, strict=True):
        for key_frame, key_place in zip(frames, places, strict=True):
            shift = (query_place[:, None] - key_place).abs() * decay[(query_frame[:, None] - key_frame).abs()]
            needed = torch.minimum(needed, shift / per_frame)
    is_own = (frames[0][:, None] <= frames[2]) & (frames[0] <= frames[2][:, None])
    is_sink = (frames[0] < mask.sink_frames).expand_as(is_own)
    return needed.masked_fill(is_own | is_sink, 0)


def _pair_share(mask: RadialMask, grid: Size3) -> Tensor:
    """Share of all pairs of tokens that lies in each pair of blocks; the last block may be a short one."""
    num_tokens = grid[0] * grid[1] * grid[2]
    starts = torch.arange(0, num_tokens, mask.block)
    sizes = ((starts + mask.block).clamp_max(num_tokens) - starts).double() / num_tokens
    return torch.outer(sizes, sizes)


def radial_attention(q: Tensor, k: Tensor, v: Tensor, grid: Size3, mask: RadialMask) -> Tensor:
    """Attention of q, k, v [B, N, H, D] under the mask; FlexAttention on a GPU, else the reference.

    One opaque operator, so that a compiled block around it is one graph.
    """
    made: Tensor = torch.ops.rushes.radial_attention(
        q, k, v, list(grid), mask.density, mask.block, mask.sink_frames
    )
    return made


def radial_attention_reference(q: Tensor, k: Tensor, v: Tensor, grid: Size3, mask: RadialMask) -> Tensor:
    """The same with dense scores and a boolean mask for every token."""
    allowed = _token_mask_on(mask, grid, q.device)
    return attention(q, k, v, mask=allowed, backend="sdpa").contiguous()


def radial_attention_flex(q: Tensor, k: Tensor, v: Tensor, grid: Size3, mask: RadialMask) -> Tensor:
    """The same through compiled FlexAttention; compiles once a grid, batch size and layout."""
    blocks = _block_mask_on(mask, grid, q.device)
    # Another layout would be another compilation, in the middle of a clip.
    q, k, v = (x.contiguous() for x in (q, k, v))
    # fullgraph: past the limit this raises; without it scores of N x N would be made, as large as the card.
    with torch._dynamo.config.patch(recompile_limit=64):
        out: Tensor = _compiled_flex()(*(x.transpose(1, 2) for x in (q, k, v)), block_mask=blocks)
    return out.transpose(1, 2).contiguous()


@lru_cache(maxsize=4)
def _token_mask_on(mask: RadialMask, grid: Size3, device: torch.device) -> Tensor:
    num_tokens = grid[0] * grid[1] * grid[2]
    if num_tokens > LONGEST_REFERENCE:
        raise ConfigError(
            f"sparse attention over {num_tokens} tokens in blocks of {mask.block} on {device.type}: the"
            f" reference takes {LONGEST_REFERENCE} at most; longer clips need a GPU and a multiple of"
            f" {KERNEL_BLOCK}"
        )
    return token_mask(mask, grid).to(device)


_HAS_CHOICE = "compute_q_blocks" in signature(BlockMask.from_kv_blocks).parameters
_NO_BACKWARD: dict[str, Any] = {"compute_q_blocks": False} if _HAS_CHOICE else {}
"""Columns of the mask serve a backward pass, and vmap, which makes them, fails inside an operator."""


@lru_cache(maxsize=16)
def _block_mask_on(mask: RadialMask, grid: Size3, device: torch.device) -> BlockMask:
    """Every kept block is a full one, so no score is computed to be thrown away."""
    kept = kept_blocks(mask, grid).to(device)
    num_tokens, block = grid[0] * grid[1] * grid[2], mask.block

    def is_kept(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return kept[query // block, key // block]

    num_blocks = kept.sum(-1, dtype=torch.int32)[None, None]
    indices = kept.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)[None, None]
    return BlockMask.from_kv_blocks(
        torch.zeros_like(num_blocks),
        torch.zeros_like(indices),
        num_blocks,
        indices.contiguous(),
        BLOCK_SIZE=block,
        mask_mod=is_kept,
        seq_lengths=(num_tokens, num_tokens),
        **_NO_BACKWARD,
    )


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


@torch.library.custom_op("rushes::radial_attention", mutates_args=())
def _radial_attention(
    q: Tensor, k: Tensor, v: Tensor, grid: list[int], density: float, block: int, sink_frames: int
) -> Tensor:
    frames, rows, columns = grid
    mask = RadialMask(density=density, block=block, sink_frames=sink_frames)
    if kept_blocks(mask, (frames, rows, columns)).all():
        return attention(q, k, v).contiguous()
    if q.device.type == "cuda" and block % KERNEL_BLOCK == 0:
        return radial_attention_flex(q, k, v, (frames, rows, columns), mask)
    return radial_attention_reference(q, k, v, (frames, rows, columns), mask)


@_radial_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, grid: list[int], density: float, block: int, sink_frames: int
) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)
