"""`rushes.ops.frame_window` as one Triton kernel. Importing this needs Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rushes.ops.frame_window import EPS, PAST, Addends, Window

VALUES_PER_PROGRAM = 4096


# No variant of its own for a size of 1, which would be no tensor here, or for a multiple of 16.
@triton.jit(do_not_specialize=["height", "width", "num_frames"])  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # Triton reads the annotations
    values,
    bias,
    shortcut,
    norm,
    past,
    window,
    next_past,
    total,
    height,
    width,
    num_frames,
    eps,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SHORTCUT: tl.constexpr,
    HAS_PAST: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_TOTAL: tl.constexpr,
    IS_PHASED: tl.constexpr,
    IS_BORDERED: tl.constexpr,
    BORDER: tl.constexpr,
    NUM_PAST: tl.constexpr,
):
    """Rows are cells of one frame of the window, its border among them; the grid is (cells / ROWS, batch *
    window frames)."""
    span = num_frames + NUM_PAST
    batch = tl.program_id(1) // span
    position = tl.program_id(1) % span
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK_C)
    i = row // (width + BORDER)
    j = row % (width + BORDER)
    inside = ((i < height) & (j < width))[:, None] & (column < C)[None, :]
    # 64 bits: a window at 720p has more than 2^31 bytes, and batches of it more than 2^31 values.
    cell = (i * width + j).to(tl.int64)[:, None] * C + column[None, :]
    frame_size = (height * width).to(tl.int64) * C
    batch_64 = batch.to(tl.int64)
    frame = batch_64 * num_frames + (position - NUM_PAST)
    if position < NUM_PAST:
        if HAS_PAST:
            before = tl.load(
                past + (batch_64 * NUM_PAST + position) * frame_size + cell, mask=inside, other=0.0
            )
            activated = before.to(tl.float32)
        else:
            activated = tl.zeros([ROWS, BLOCK_C], dtype=tl.float32)
    else:
        if IS_BORDERED:
            source = ((frame * (height + 1) + i) * (width + 1) + j)[:, None] * C + column[None, :]
        elif IS_PHASED:
            source_row = (frame * (height // 2 + 1) + i // 2 + i % 2) * (width // 2 + 1) + j // 2 + j % 2
            source = (source_row * 4 + (i % 2) * 2 + j % 2)[:, None] * C + column[None, :]
        else:
            source = frame * frame_size + cell
        x = tl.load(values + source, mask=inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            x += tl.load(bias + column, mask=column < C, other=0.0).to(tl.float32)[None, :]
        if HAS_SHORTCUT:
            x += tl.load(shortcut + frame * frame_size + cell, mask=inside, other=0.0).to(tl.float32)
        if HAS_TOTAL:
            tl.store(total + frame * frame_size + cell, x, mask=inside)
        if HAS_NORM:
            scale = tl.rsqrt(tl.sum(x * x, axis=1) / C + eps)
            weight = tl.load(norm + column, mask=column < C, other=0.0).to(tl.float32)
            normed = x * scale[:, None] * weight[None, :]
            activated = normed / (1.0 + tl.exp(-normed))
        else:
            activated = x
    if HAS_WINDOW:
        if BORDER:
            activated = tl.where(inside, activated, 0.0)
        cells = (height + BORDER) * (width + BORDER)
        target = ((batch_64 * span + position) * cells + row)[:, None] * C + column[None, :]
        tl.store(window + target, activated, mask=(row < cells)[:, None] & (column < C)[None, :])
        if position >= num_frames:
            kept = (batch_64 * NUM_PAST + (position - num_frames)) * frame_size + cell
            tl.store(next_past + kept, activated, mask=inside)


def frame_window(
    addends: Addends, past: Tensor | None, norm: Tensor | None, with_total: bool, with_border: bool
) -> Window:
    """See `rushes.ops.frame_window.FrameWindow`."""
    b, t, h, w, c = addends.shape
    values = addends.values
    frames = values.new_empty(b, t + PAST, h + with_border, w + with_border, c)
    next_past = values.new_empty(b, PAST, h, w, c)
    total = values.new_empty(b, t, h, w, c) if with_total else None
    _launch(addends, past, norm, frames, next_past, total)
    return Window(frames=frames, past=next_past, total=total)


def total_of(addends: Addends) -> Tensor:
    """See `rushes.ops.frame_window.total_of`."""
    total = addends.values.new_empty(addends.shape)
    _launch(addends, None, None, None, None, total)
    return total


def _launch(
    addends: Addends,
    past: Tensor | None,
    norm: Tensor | None,
    frames: Tensor | None,
    next_past: Tensor | None,
    total: Tensor | None,
) -> None:
    b, t, h, w, c = addends.shape
    tensors = (addends.values, addends.bias, addends.shortcut, norm, past, frames, next_past, total)
    assert all(tensor.is_contiguous() for tensor in tensors if tensor is not None), "kernel reads rows of C"
    # Without a window nothing but the chunk's own frames is visited.
    num_past = PAST if frames is not None else 0
    block_c = triton.next_power_of_2(c)
    rows = max(1, VALUES_PER_PROGRAM // block_c)
    border = int(frames is not None and frames.shape[2] > h)
    grid = (triton.cdiv((h + border) * (w + border), rows), b * (t + num_past))
    launch: Any = _kernel[grid]
    with torch.cuda.device(addends.values.device):
        launch(
            # An absent tensor is never read; its place still takes a pointer.
            *(addends.values if tensor is None else tensor for tensor in tensors),
            *(h, w, t, EPS),
            C=c,
            BLOCK_C=block_c,
            ROWS=rows,
            HAS_BIAS=addends.bias is not None,
            HAS_SHORTCUT=addends.shortcut is not None,
            HAS_PAST=past is not None,
            HAS_NORM=norm is not None,
            HAS_WINDOW=frames is not None,
            HAS_TOTAL=total is not None,
            IS_PHASED=addends.is_phased,
            IS_BORDERED=addends.is_bordered,
            BORDER=border,
            NUM_PAST=num_past,
        )
