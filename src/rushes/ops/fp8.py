"""Matrix products of float8_e4m3fn codes with one float32 scale a row: value = code * scale.

A row's scale maps its largest value to 448, the largest of the format (arXiv:2209.05433). It is one a row and
not one a tensor because a single outlier would push every other row into the subnormal numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rushes.errors import ConfigError

CODE = torch.float8_e4m3fn
LARGEST = 448.0
"""Of float8_e4m3fn; a larger number becomes NaN, not infinity."""

ALIGNMENT = 16
"""Columns of both operands come in multiples of it: 16 bytes, as the tensor cores load them."""


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., K] to codes [..., K] and scales float32 [..., 1].

    Plain operators, so that torch.compile does them in the kernel that made x.
    """
    x = x.float()
    peak = x.abs().amax(-1, keepdim=True).clamp_min(1e-12)
    # Rounding may lift the product a little above the largest code, which would be NaN.
    codes = (x * (LARGEST / peak)).clamp(-LARGEST, LARGEST).to(CODE)
    return codes, peak / LARGEST


def quantize_rows_in_one(x: Tensor, *, has_gelu: bool = False) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of x [..., K], or of its tanh GELU, as one opaque operator: on a GPU one kernel.

    For inputs that no operator before could take along: those of attention's output, and rows that are longer
    than the compiler keeps in registers.
    """
    codes, scales = torch.ops.rushes.quantize_rows(x, has_gelu)
    return codes, scales


def quantize_rows_reference(x: Tensor, has_gelu: bool) -> tuple[Tensor, Tensor]:
    """The same as plain operators."""
    return quantize_rows(F.gelu(x, approximate="tanh") if has_gelu else x)


@torch.library.custom_op("rushes::quantize_rows", mutates_args=())
def _quantize_rows(x: Tensor, has_gelu: bool) -> tuple[Tensor, Tensor]:
    if x.device.type != "cuda":
        return quantize_rows_reference(x, has_gelu)
    from rushes.ops import fp8_triton

    codes, scales = fp8_triton.quantize_rows(x.flatten(0, -2), largest=LARGEST, has_gelu=has_gelu)
    return codes.view(x.shape), scales.view(*x.shape[:-1], 1)


@_quantize_rows.register_fake
def _(x: Tensor, has_gelu: bool) -> tuple[Tensor, Tensor]:
    codes = torch.empty(x.shape, dtype=CODE, device=x.device)
    return codes, torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)


def scaled_mm(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    *,
    use_fast_accum: bool = True,
) -> Tensor:
    """(a * scale_a) (b * scale_b)^T + bias; the reference where the device is no GPU.

    Args:
        a: codes [M, K], rows contiguous.
        b: codes [N, K], rows contiguous: a weight as it is stored.
        scale_a: float32 [M, 1].
        scale_b: float32 [N, 1].
        bias: [N], in `dtype`.
        dtype: of the result; bfloat16 on a GPU.
        use_fast_accum: add up in the tensor cores' own precision (about 14 bits of mantissa) without a
            promotion to float32 every few products.
    """
    if a.device.type != "cuda":
        return scaled_mm_reference(a, b, scale_a, scale_b, bias, dtype)
    return torch._scaled_mm(
        a,
        b.t(),
        scale_a=scale_a,
        scale_b=scale_b.t(),
        bias=bias,
        out_dtype=dtype,
        use_fast_accum=use_fast_accum,
    )


def scaled_mm_reference(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """What `scaled_mm` computes, by its equation in float32."""
    bias = None if bias is None else bias.float()
    return F.linear(a.float() * scale_a, b.float() * scale_b, bias).to(dtype)


def check_fp8_device(device: torch.device, dtype: torch.dtype, what: str) -> None:
    """Raises `ConfigError` where `scaled_mm` cannot run for a network of this dtype; `what` begins the
    message."""
    if device.type in ("cpu", "meta"):
        return
    if device.type != "cuda":
        raise ConfigError(f"{what}: no float8 matmul on {device.type}; choose cuda (or the slow cpu)")
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 9):
        found = ".".join(map(str, capability))
        raise ConfigError(f"{what}: needs compute capability 8.9, this GPU has {found}; choose int8-linears")
    if dtype != torch.bfloat16:
        raise ConfigError(f"{what}: row-wise scales give bfloat16, the network is {dtype}; load it in bf16")
