"""Block-sparse self-attention over a video under a radial mask (`rushes.ops.radial_mask`).

A kernel skips the blocks that the mask drops: FlexAttention, or FlashAttention 3 on pages of keys
(`rushes.ops.sparse_pages`). The reference makes all scores.
"""

from __future__ import annotations

from functools import lru_cache
from inspect import signature
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from rushes.errors import ConfigError
from rushes.ops.attention import attention
from rushes.ops.patch import Size3
from rushes.ops.radial_mask import RadialMask, kept_blocks, token_mask
from rushes.ops.sparse_pages import paged_attention

FLEX_BLOCK = 128
"""Tokens of FlexAttention's blocks; a mask for it has blocks of a multiple of them."""

Backend = Literal["flex", "fa3"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
"""What runs on a GPU: compiled FlexAttention, or FlashAttention 3 on pages of keys
(`rushes.ops.sparse_pages`)."""

LONGEST_REFERENCE = 16384
"""Tokens whose full mask is still made: 268 MB."""


def radial_attention(
    q: Tensor, k: Tensor, v: Tensor, grid: Size3, mask: RadialMask, *, backend: Backend = "flex"
) -> Tensor:
    """Attention of q, k, v [B, N, H, D] under the mask; the backend's kernel on a GPU, else the reference.

    One opaque operator, so that a compiled block around it is one graph.
    """
    made: Tensor = torch.ops.rushes.radial_attention(
        q, k, v, list(grid), mask.density, mask.block, mask.keys, mask.sink_frames, backend
    )
    return made


def radial_attention_reference(q: Tensor, k: Tensor, v: Tensor, grid: Size3, mask: RadialMask) -> Tensor:
    """The same with dense scores and a boolean mask for every token."""
    allowed = token_mask_on(mask, grid, q.device)
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
def token_mask_on(mask: RadialMask, grid: Size3, device: torch.device) -> Tensor:
    """bool [N, N] on the device; shared. Raises `ConfigError` for more than `LONGEST_REFERENCE` tokens."""
    num_tokens = grid[0] * grid[1] * grid[2]
    if num_tokens > LONGEST_REFERENCE:
        raise ConfigError(
            f"sparse attention over {num_tokens} tokens in blocks of {mask.block} x {mask.keys} on"
            f" {device.type}: the reference takes {LONGEST_REFERENCE} at most; longer clips need a GPU and a"
            f" multiple of {FLEX_BLOCK}"
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
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: list[int],
    density: float,
    block: int,
    key_block: int,
    sink_frames: int,
    backend: str,
) -> Tensor:
    frames, rows, columns = grid
    size = (frames, rows, columns)
    mask = RadialMask(density=density, block=block, key_block=key_block, sink_frames=sink_frames)
    if kept_blocks(mask, size).all():
        return attention(q, k, v).contiguous()
    if q.device.type == "cuda" and backend == "fa3":
        return paged_attention(q, k, v, size, mask)
    if q.device.type == "cuda" and block == key_block and block % FLEX_BLOCK == 0:
        return radial_attention_flex(q, k, v, size, mask)
    return radial_attention_reference(q, k, v, size, mask)


@_radial_attention.register_fake
def _(q: Tensor, *_others: object) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)
