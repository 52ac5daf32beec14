"""A causal 3x3x3 convolution over bordered frames: the specification, and the layers that our kernel takes.

A bordered frame [H + 1, W + 1, C] has zeros below its last row and right of its last column. In memory they
also lie above the next frame and left of the next row, so that all 27 taps of any cell are cells at the same
27 distances from it: `rushes.ops.bordered_conv_triton` reads them in whole tiles, without a mask.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

BorderedConv = Callable[[Tensor, Tensor], Tensor]
"""(window [B, T + 2, H + 1, W + 1, C] with zeros in its borders, weight [O, C, 3, 3, 3]) ->
[B, T, H + 1, W + 1, O]. What stands in the borders of the result is nobody's business."""

FASTER = frozenset({(96, 96)})
"""(channels in, channels out) of the layers that our kernel computes faster than cuDNN: the last level of
Wan2.1's decoder, the largest part of its work (`python -m benchmarks.vae_gpu`, part "convs")."""

INNER = 32
"""Channels of a tap come in multiples of these."""


def takes(conv: nn.Conv3d) -> bool:
    """Whether the kernel can compute a layer at all."""
    is_plain = conv.stride == conv.dilation == (1, 1, 1) and conv.groups == 1
    is_causal = conv.kernel_size == (3, 3, 3) and conv.padding == (0, 1, 1)
    return is_plain and is_causal and conv.in_channels % INNER == 0 and conv.out_channels % 8 == 0


def is_faster(conv: nn.Conv3d) -> bool:
    """Whether it was measured to compute this layer faster than cuDNN."""
    return takes(conv) and (conv.in_channels, conv.out_channels) in FASTER


def bordered_conv(window: Tensor, weight: Tensor) -> Tensor:
    """The specification of `BorderedConv`; the result's borders are NaN, so that nothing can rest on them."""
    out = F.conv3d(window[:, :, :-1, :-1].movedim(-1, 1), weight, None, padding=(0, 1, 1))
    return F.pad(out.movedim(1, -1), (0, 0, 0, 1, 0, 1), value=float("nan"))
