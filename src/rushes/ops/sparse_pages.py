"""Block-sparse attention by FlashAttention 3's paged keys: every block of queries is a sequence of its own,
whose keys are the pages that the mask keeps for it.

Pages were made for caches of keys that lie scattered in memory; read in another order they are a sparse
kernel at the dense one's rate, where a page is a multiple of the keys that the kernel takes at a time (else
it falls from bulk copies to single loads). On an H200 at 480p: 620 TFLOP/s of bfloat16 and 749 of float8 on
the work kept, where FlexAttention has 290 (benchmarks/results/kernels_h200.json).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rushes.errors import ConfigError
from rushes.ops.chips import is_hopper
from rushes.ops.fa3 import fa3_paged_attention, paged_fa3_module
from rushes.ops.patch import Size3
from rushes.ops.radial_mask import RadialMask, kept_blocks

QUERY_BLOCK = 256
"""Two tiles of queries: with one, the kernel does not use bulk copies."""

PAGE, PAGE_FP8 = 176, 224
"""Keys that the kernel takes at a time with heads of 128, in bfloat16 and in float8."""


def check_pages(device: torch.device, what: str) -> None:
    """Raises `ConfigError` where the kernel cannot run; `what` begins the message."""
    if device.type in ("cpu", "meta"):
        return
    if not is_hopper(device):
        raise ConfigError(f"{what}: backend fa3 is for Hopper GPUs (H100, H200), not {device}; choose flex")
    if paged_fa3_module() is None:
        raise ConfigError(
            f"{what}: backend fa3 needs a FlashAttention 3 with paged keys, which fa3-fwd is not: pip install"
            " tokenspeed-fa3, or choose flex"
        )


def paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Size3,
    mask: RadialMask,
    scales: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Attention of q, k, v [B, N, H, D] under the mask, on a Hopper GPU.

    Args:
        scales: of float8 codes, float32 [B, H] each, as `quantize_heads` gives them.

    Returns:
        [B, N, H, D], contiguous; bfloat16 for codes.
    """
    pages = _pages_on(mask, grid, q.shape[0], q.device)
    out = fa3_paged_attention(
        q.flatten(0, 1),
        in_pages(k, mask.keys),
        in_pages(v, mask.keys),
        table=pages.table,
        num_keys=pages.num_keys,
        starts=pages.starts,
        longest=mask.block,
        descales=None if scales is None else [scale.repeat_interleave(pages.blocks, 0) for scale in scales],
    )
    return out.view(q.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """What each block of queries reads, all clips of a batch one after another.

    Attributes:
        blocks: of queries in a clip.
        table: int32 [B * blocks, most], numbers of pages; only the last one kept may be short.
        num_keys: int32 [B * blocks].
        starts: int32 [B * blocks + 1], each block's first query, and the end.
    """

    blocks: int
    table: Tensor
    num_keys: Tensor
    starts: Tensor


def pages_of(mask: RadialMask, grid: Size3, batch: int) -> Pages:
    """On the CPU."""
    kept = kept_blocks(mask, grid)
    blocks, num_pages = kept.shape
    tokens = grid[0] * grid[1] * grid[2]
    counts = kept.sum(1)
    # Stable: kept pages come first and in order, so that a clip's short last page is the last of them.
    table = kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
    num_keys = counts * mask.keys - kept[:, -1] * (num_pages * mask.keys - tokens)
    starts = torch.arange(0, tokens, mask.block)
    clips, end = torch.arange(batch), torch.tensor([batch * tokens])
    return Pages(
        blocks=blocks,
        table=(clips[:, None, None] * num_pages + table).flatten(0, 1).int(),
        num_keys=num_keys.repeat(batch).int(),
        starts=torch.cat(((clips[:, None] * tokens + starts).flatten(), end)).int(),
    )


@lru_cache(maxsize=16)
def _pages_on(mask: RadialMask, grid: Size3, batch: int, device: torch.device) -> Pages:
    made = pages_of(mask, grid, batch)
    table, num_keys, starts = (part.to(device) for part in (made.table, made.num_keys, made.starts))
    return Pages(blocks=made.blocks, table=table, num_keys=num_keys, starts=starts)


def in_pages(x: Tensor, page: int) -> Tensor:
    """x [B, N, H, D] copied to [B * pages, page, H, D]; what is beyond the N tokens is 0."""
    batch, tokens, heads, dim = x.shape
    num_pages = -(-tokens // page)
    paged = x.new_empty(batch, num_pages * page, heads, dim)
    paged[:, :tokens] = x
    # Keys beyond the count have weight 0, and 0 times what lay in that memory may be NaN.
    paged[:, tokens:].zero_()
    return paged.view(batch * num_pages, page, heads, dim)
