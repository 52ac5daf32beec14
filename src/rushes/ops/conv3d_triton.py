"""A causal 3x3x3 convolution as an implicit matrix product in Triton. Importing this needs Triton.

Rows are output cells, columns output channels; the inner dimension runs over the 27 taps of a cell and the
channels of each, read where they lie: no unfolded copy. For the narrow layers of Wan2.1's VAE (96 and 192
channels), where cuDNN stays far below its rate for wide ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvTile:
    """How one program computes: cells x channels, channels of a tap at a time, warps, loads in flight."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


TILES = (
    ConvTile(rows=128, columns=128, inner=32, warps=4, stages=4),
    ConvTile(rows=128, columns=128, inner=32, warps=8, stages=4),
    ConvTile(rows=256, columns=128, inner=32, warps=8, stages=3),
    ConvTile(rows=128, columns=128, inner=64, warps=4, stages=3),
    ConvTile(rows=128, columns=128, inner=64, warps=8, stages=3),
    ConvTile(rows=128, columns=256, inner=64, warps=8, stages=3),
)
"""Candidates; which is best depends on the layer and is measured."""


# No variant of its own for a size of 1, which would be no tensor here, or for a multiple of 16.
@triton.jit(do_not_specialize=["num_cells", "num_frames", "height", "width"])  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # Triton reads the annotations
    window,
    weight,
    out,
    num_cells,
    num_frames,
    height,
    width,
    C: tl.constexpr,
    O: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The grid is (cells / ROWS * channels / COLUMNS): programs of the same cells run side by side."""
    num_columns: tl.constexpr = (O + COLUMNS - 1) // COLUMNS
    cell = (tl.program_id(0) // num_columns) * ROWS + tl.arange(0, ROWS)
    channel = (tl.program_id(0) % num_columns) * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, INNER)
    x = cell % width
    y = (cell // width) % height
    frame = cell // (width * height)
    # The window has 2 frames more than the output in each clip of the batch.
    frame += 2 * (frame // num_frames)
    # 64 bits: at 720p a window of a batch has more than 2^31 values.
    start = ((frame.to(tl.int64) * height + y) * width + x) * C
    is_cell = cell < num_cells
    is_channel = channel < O
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    parts: tl.constexpr = (C + INNER - 1) // INNER
    for step in range(27 * parts):
        tap = step // parts
        depth = (step % parts) * INNER + inner
        down = (tap // 3) % 3 - 1
        across = tap % 3 - 1
        is_inside = is_cell & (y + down >= 0) & (y + down < height) & (x + across >= 0) & (x + across < width)
        shift = ((tap // 9) * height + down) * width + across
        source = window + (start + shift.to(tl.int64) * C)[:, None] + depth[None, :]
        kernel = weight + (channel * (27 * C) + tap * C)[None, :] + depth[:, None]
        if C % INNER == 0:
            a = tl.load(source, mask=is_inside[:, None], other=0.0)
            b = tl.load(kernel, mask=is_channel[None, :], other=0.0)
        else:
            a = tl.load(source, mask=is_inside[:, None] & (depth < C)[None, :], other=0.0)
            b = tl.load(kernel, mask=is_channel[None, :] & (depth < C)[:, None], other=0.0)
        total = tl.dot(a, b, total)
    target = out + cell.to(tl.int64)[:, None] * O + channel[None, :]
    tl.store(target, total, mask=is_cell[:, None] & is_channel[None, :])


def conv3d(window: Tensor, weight: Tensor, tile: ConvTile) -> Tensor:
    """A window through a 3x3x3 convolution, padded by 1 in height and width.

    Args:
        window: [B, T + 2, H, W, C], contiguous.
        weight: [O, C, 3, 3, 3], channels last.

    Returns:
        [B, T, H, W, O].
    """
    b, span, h, w, c = window.shape
    o = weight.shape[0]
    assert window.is_contiguous(), "kernel reads rows of C"
    assert weight.is_contiguous(memory_format=torch.channels_last_3d), "kernel reads rows of C"
    out = window.new_empty(b, span - 2, h, w, o)
    num_cells = b * (span - 2) * h * w
    grid = (triton.cdiv(num_cells, tile.rows) * triton.cdiv(o, tile.columns),)
    launch: Any = _kernel[grid]
    with torch.cuda.device(window.device):
        launch(
            *(window, weight, out, num_cells, span - 2, h, w),
            C=c,
            O=o,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            INNER=tile.inner,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return out
