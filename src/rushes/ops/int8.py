"""Matrix products of int8 codes: value = code * scale, one scale a row of the weight and one for all of x.

On a GPU `torch._int_mm`, on a CPU oneDNN's linear where the chip has int8 dot products (VNNI), else the
reference: exact sums, and no faster than float32.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 127.0
ALIGNMENT = 8
"""Columns of both operands come in multiples of it (`torch._int_mm`)."""

HAS_INT8_DOT = bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())
"""Whether this CPU multiplies int8 faster than float32, and without overflow."""

LEAST_ROWS = 17
"""Of x (`torch._int_mm` on a GPU); fewer are padded."""


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K] to codes [N, K] and scales float32 [N, 1]."""
    peak = weight.float().abs().amax(-1, keepdim=True).clamp_min(1e-12)
    return (weight.float() * (LARGEST / peak)).round().to(torch.int8), peak / LARGEST


def quantize_static(x: Tensor, scale: Tensor) -> Tensor:
    """Codes of x for a scale that is known beforehand (a scalar tensor); larger numbers are cut."""
    return (x.float() / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8)


def int8_linear(
    x: Tensor, weight: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(x * x_scale) (weight * scale)^T + bias.

    Args:
        x: codes [M, K].
        weight: codes [N, K].
        x_scale: float32 scalar.
        scale: float32 [N, 1].
        bias: [N].
        dtype: of the result.
    """
    if x.device.type == "cpu" and HAS_INT8_DOT:
        # torch.compile knows no shapes of oneDNN's packed weights, and takes the whole as one operator.
        run = _ONEDNN if torch.compiler.is_compiling() else _onednn
        return cast(Tensor, run(x, weight, x_scale, scale, bias)).to(dtype)
    if x.device.type != "cuda":
        return int8_linear_reference(x, weight, x_scale, scale, bias, dtype)
    missing = max(LEAST_ROWS - x.shape[0], 0)
    sums = torch._int_mm(F.pad(x, (0, 0, 0, missing)), weight.t())[: x.shape[0]]
    out = sums.float() * (x_scale * scale.t())
    return (out if bias is None else out + bias.float()).to(dtype)


def int8_linear_reference(
    x: Tensor, weight: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The same by its equation in float32, which holds sums of codes exactly up to 2^24."""
    out = F.linear(x.float(), weight.float()) * (x_scale * scale.t())
    return (out if bias is None else out + bias.float()).to(dtype)


def _onednn(x: Tensor, weight: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    # Packed at each call: one more read of the weight is little beside hundreds of rows of x, and a packed
    # weight could not be moved or swapped. Without VNNI its sums of two products overflow 16 bits.
    packed = torch.ops.onednn.qlinear_prepack(weight, list(x.shape))
    zero = torch.zeros((), dtype=torch.int32)
    zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
    bias = None if bias is None else bias.float()
    scales = (scale.flatten(), zeros)
    out: Tensor = torch.ops.onednn.qlinear_pointwise.tensor(
        x, x_scale.reshape(()), zero, packed, *scales, bias, 1.0, 0, torch.float32, "none", [], ""
    )
    return out


_ONEDNN = torch.library.custom_op(
    "rushes::int8_linear",
    _onednn,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor x_scale, Tensor scale, Tensor? bias) -> Tensor",
)


@_ONEDNN.register_fake
def _onednn_shape(x: Tensor, weight: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], dtype=torch.float32)
