"""Attention on float8 codes: FlashAttention 3's kernel on Hopper, elsewhere a reference.

Codes have one scale for each sample and head, which the kernel multiplies back in ("descaling",
arXiv:2407.08608). The mean of k over its tokens is taken off first: it adds the same number to all scores of
a query, which softmax does not see, and leaves the format's 3 bits of mantissa to what differs
(arXiv:2410.02367, section 4.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rushes.errors import ConfigError
from rushes.ops.attention import attention
from rushes.ops.chips import is_hopper
from rushes.ops.fa3 import fa3_attention, fa3_module
from rushes.ops.fp8 import CODE, LARGEST

HEAD_DIMS = (64, 128, 256)


def attention_fp8(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v of [B, N, H, D] and [B, M, H, D], in q's dtype.

    The quantisation is plain operators, which torch.compile fuses; the kernel is one opaque operator.
    """
    out: Tensor = torch.ops.rushes.attention_fp8(*quantize_qkv(q, k, v))
    return out.to(q.dtype)


def quantize_qkv(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """Codes of q, of k less its mean over the tokens, and of v; then their scales, as `quantize_heads` has
    them."""
    centred = k - k.mean(dim=1, keepdim=True, dtype=torch.float32).to(k.dtype)
    pairs = [quantize_heads(x) for x in (q, centred, v)]
    return tuple([codes for codes, _ in pairs] + [scale for _, scale in pairs])


def quantize_heads(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, N, H, D] to contiguous codes and scales float32 [B, H], one for each sample and head."""
    peak = x.abs().amax(dim=(1, 3)).float().clamp_min(1e-12)
    codes = (x * (LARGEST / peak)[:, None, :, None]).clamp(-LARGEST, LARGEST).to(CODE)
    return codes.contiguous(), peak / LARGEST


def attention_fp8_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    v_scale: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention of the numbers that the codes stand for, float32 inside, bfloat16 out."""
    pairs = ((q, q_scale), (k, k_scale), (v, v_scale))
    values = (codes.float() * scale[:, None, :, None] for codes, scale in pairs)
    return attention(*values, mask=mask).bfloat16()


def check_attention_fp8(device: torch.device, dtype: torch.dtype, head_dim: int, what: str) -> None:
    """Raises `ConfigError` where the kernel cannot run for such a network; `what` begins the message."""
    if device.type in ("cpu", "meta"):
        return
    if not is_hopper(device):
        raise ConfigError(f"{what}: the float8 kernel is for Hopper GPUs (H100, H200), not {device}")
    if fa3_module() is None:
        raise ConfigError(f"{what}: needs the package fa3-fwd, which is not installed (pip install fa3-fwd)")
    if dtype != torch.bfloat16:
        raise ConfigError(f"{what}: the kernel gives bfloat16, the network is {dtype}; load it in bf16")
    if head_dim not in HEAD_DIMS:
        raise ConfigError(f"{what}: head size {head_dim}; the kernel takes {', '.join(map(str, HEAD_DIMS))}")


@torch.library.custom_op("rushes::attention_fp8", mutates_args=())
def _attention_fp8(
    q: Tensor, k: Tensor, v: Tensor, q_scale: Tensor, k_scale: Tensor, v_scale: Tensor
) -> Tensor:
    if q.device.type != "cuda":
        return attention_fp8_reference(q, k, v, q_scale, k_scale, v_scale)
    return fa3_attention(q, k, v, q_descale=q_scale, k_descale=k_scale, v_descale=v_scale)


@_attention_fp8.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, q_scale: Tensor, k_scale: Tensor, v_scale: Tensor) -> Tensor:
    return torch.empty_like(q, dtype=torch.bfloat16, memory_format=torch.contiguous_format)
