"""`rushes.ops.bordered_conv` as matrix products of shifted rows, in Triton. Importing this needs Triton.

The window is one matrix of cells x channels, and a tap is that matrix further down: each of the 27 products
loads its tiles by the copy engine (TMA), which fills what lies outside with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvTile:
    """How one program computes.

    Attributes:
        rows, columns: cells of a frame, and channels out.
        inner: channels of a tap at a time.
        warps, stages: of the program, and loads in flight.
    """

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


TILE = ConvTile(rows=256, columns=128, inner=32, warps=8, stages=4)
"""The fastest of those tried for 96 channels."""


# No variant of its own for a size that is 1 or a multiple of 16.
@triton.jit(do_not_specialize=["frames", "frame_rows", "line"])  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # Triton reads the annotations
    window,
    weight,
    out,
    frames,
    frame_rows,
    line,
    C: tl.constexpr,
    O: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The grid is (tiles of a frame x of channels, frames, clips)."""
    num_columns: tl.constexpr = (O + COLUMNS - 1) // COLUMNS
    column = (tl.program_id(0) % num_columns) * COLUMNS
    row = (tl.program_id(0) // num_columns) * ROWS
    frame = tl.program_id(1)
    clip = tl.program_id(2)
    source = (clip * (frames + 2) + frame) * frame_rows + row
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    parts: tl.constexpr = C // INNER
    for step in range(27 * parts):
        tap = step // parts
        depth = (step % parts) * INNER
        at = source + (tap // 9) * frame_rows + ((tap // 3) % 3 - 1) * line + tap % 3 - 1
        a = window.load([at, depth])
        b = weight.load([column, tap * C + depth])
        total = tl.dot(a, b.T, total)
    out.store([clip * frames + frame, row, column], total.to(tl.bfloat16).reshape(1, ROWS, COLUMNS))


def bordered_conv(window: Tensor, weight: Tensor, tile: ConvTile = TILE) -> Tensor:
    """See `rushes.ops.bordered_conv.BorderedConv`; bfloat16, weights channels last, any batch."""
    # Of bordered frames, which have a row and a column more.
    b, span, h, w, c = window.shape
    o, t = len(weight), span - 2
    assert window.dtype == weight.dtype == torch.bfloat16, "tiles are loaded and written as bfloat16"
    assert window.is_contiguous(), "kernel reads rows of C"
    assert weight.is_contiguous(memory_format=torch.channels_last_3d), "kernel reads rows of C"
    out = window.new_empty(b, t, h, w, o)
    taps = weight.permute(0, 2, 3, 4, 1).reshape(o, 27 * c)
    grid = (triton.cdiv(h * w, tile.rows) * triton.cdiv(o, tile.columns), t, b)
    launch: Any = _kernel[grid]
    with torch.cuda.device(window.device):
        launch(
            TensorDescriptor.from_tensor(window.view(-1, c), [tile.rows, tile.inner]),
            TensorDescriptor.from_tensor(taps, [tile.columns, tile.inner]),
            TensorDescriptor.from_tensor(out.view(b * t, h * w, o), [1, tile.rows, tile.columns]),
            *(t, h * w, w),
            C=c,
            O=o,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            INNER=tile.inner,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return out
