"""Rows to float8 codes in one reading, with or without GELU before, in Triton. Importing this needs Triton.

A row of the FFN's hidden units is read once and stays in registers; the compiler's own reduction over so
long a row reads it twice and takes GELU twice: 1.65 against 0.88 ms for a block of A14B at 480p on an H200
(benchmarks/results/kernels_h200.json).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS = 8


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # Triton reads the annotations
    x, codes, scales, num_columns, LARGEST: tl.constexpr, HAS_GELU: tl.constexpr, BLOCK: tl.constexpr
):
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    is_inside = column < num_columns
    start = row * num_columns + column
    loaded = tl.load(x + start, mask=is_inside, other=0.0)
    value = loaded.to(tl.float32)
    if HAS_GELU:
        inner = 0.7978845608028654 * (value + 0.044715 * value * value * value)
        # tanh, without overflow at either end.
        value = 0.5 * value * (2 - 2 / (tl.exp(2 * inner) + 1))
        # As the plain operators round between GELU and quantisation.
        value = value.to(loaded.dtype).to(tl.float32)
    peak = tl.maximum(tl.max(tl.abs(value), 0), 1e-12)
    # The maximum passes over what is no number, and the limits make a code of it: the scale has to say so.
    peak = tl.where(tl.max((value != value).to(tl.int32), 0) > 0, float("nan"), peak)
    code = tl.minimum(tl.maximum(value * (LARGEST / peak), -LARGEST), LARGEST)
    tl.store(codes + start, code.to(tl.float8e4nv), mask=is_inside)
    tl.store(scales + row, peak / LARGEST)


def quantize_rows(x: Tensor, *, largest: float, has_gelu: bool) -> tuple[Tensor, Tensor]:
    """x [M, K] to codes float8_e4m3fn [M, K] and scales float32 [M, 1]."""
    x = x.contiguous()
    rows, columns = x.shape
    codes = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    launch: Any = _kernel[(rows,)]
    with torch.cuda.device(x.device):
        launch(
            *(x, codes, scales, columns),
            LARGEST=largest,
            HAS_GELU=has_gelu,
            BLOCK=triton.next_power_of_2(columns),
            num_warps=WARPS,
        )
    return codes, scales
