"""Block-sparse self-attention under a radial mask on float8 codes: FlashAttention 3's paged kernel on Hopper,
elsewhere a reference."""

from __future__ import annotations

import torch
from torch import Tensor

from rushes.ops.attention_fp8 import attention_fp8_reference, quantize_qkv
from rushes.ops.fa3 import fa3_attention
from rushes.ops.patch import Size3
from rushes.ops.radial_mask import RadialMask, kept_blocks
from rushes.ops.sparse import token_mask_on
from rushes.ops.sparse_pages import paged_attention


def radial_attention_fp8(q: Tensor, k: Tensor, v: Tensor, grid: Size3, mask: RadialMask) -> Tensor:
    """Attention of q, k, v [B, N, H, D] under the mask, in q's dtype; codes as in `rushes.ops.attention_fp8`.

    The quantisation is plain operators, which torch.compile fuses; the kernel is one opaque operator.
    """
    out: Tensor = torch.ops.rushes.radial_attention_fp8(
        *quantize_qkv(q, k, v), list(grid), mask.density, mask.block, mask.keys, mask.sink_frames
    )
    return out.to(q.dtype)


@torch.library.custom_op("rushes::radial_attention_fp8", mutates_args=())
def _radial_attention_fp8(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    v_scale: Tensor,
    grid: list[int],
    density: float,
    block: int,
    key_block: int,
    sink_frames: int,
) -> Tensor:
    frames, rows, columns = grid
    size = (frames, rows, columns)
    mask = RadialMask(density=density, block=block, key_block=key_block, sink_frames=sink_frames)
    if q.device.type != "cuda":
        allowed = token_mask_on(mask, size, q.device)
        out = attention_fp8_reference(q, k, v, q_scale, k_scale, v_scale, allowed)
        return out.contiguous()
    if kept_blocks(mask, size).all():
        return fa3_attention(q, k, v, q_descale=q_scale, k_descale=k_scale, v_descale=v_scale)
    return paged_attention(q, k, v, size, mask, (q_scale, k_scale, v_scale))


@_radial_attention_fp8.register_fake
def _(q: Tensor, *_others: object) -> Tensor:
    return torch.empty_like(q, dtype=torch.bfloat16, memory_format=torch.contiguous_format)
