"""How much moves in a clip, and how much flickers beside it; without an optical-flow network.

Blocks of one frame are looked for in the frame before (full search). Where they are found is the motion; what
differs even there is the flicker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rushes.profiling.quality.pixels import luma

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 8
REACH = 7
MAX_WIDTH = 320
REST_BONUS = 0.1  # grey levels a pixel of distance: where all places fit alike, nothing has moved
PLACES = [(dy, dx) for dy in range(-REACH, REACH + 1) for dx in range(-REACH, REACH + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """Of one clip.

    Attributes:
        motion_px: mean distance that a block moves from one frame to the next, in pixels of the clip. It
            cannot exceed `REACH` pixels (of the reduced clip) each way.
        flicker: mean difference from the frame before after following the motion, in grey levels of 255.
            Motion by fractions of a pixel, and what comes into view, count a little too.
    """

    motion_px: float
    flicker: float


class MotionMeter:
    """Takes a clip frame by frame. Frames wider than `MAX_WIDTH` are reduced by a whole factor first."""

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._moved: list[float] = []
        self._left: list[float] = []

    def add(self, frame: NDArray[np.uint8]) -> None:
        """The next frame, uint8 [H, W, 3]."""
        factor = math.ceil(frame.shape[1] / MAX_WIDTH)
        reduced = F.avg_pool2d(luma(frame)[None, None], factor)[0, 0]
        if self._before is not None:
            moved, left = match_blocks(reduced, self._before)
            self._moved.append(moved * factor)
            self._left.append(left)
        self._before = reduced

    def result(self) -> Motion:
        """The means over the clip; zeros for a single frame."""
        if not self._moved:
            return Motion(motion_px=0.0, flicker=0.0)
        return Motion(motion_px=float(np.mean(self._moved)), flicker=float(np.mean(self._left)))


@torch.no_grad()
def match_blocks(frame: Tensor, before: Tensor) -> tuple[float, float]:
    """Mean distance, in pixels, and mean remaining difference of the blocks of `frame` [H, W].

    The mean brightness of both frames is put aside while matching: what only grows brighter does not move.
    """
    height, width = frame.shape
    around = F.pad(before[None, None], (REACH,) * 4, mode="replicate")[0, 0]
    brighter = frame.mean() - before.mean()
    costs, lefts = [], []
    for top in range(2 * REACH + 1):
        windows = around[top : top + height].unfold(1, width, 1)
        difference = frame[:, None] - windows  # [H, places, W]
        lefts.append(_block_means(difference.abs()))
        costs.append(_block_means(difference.sub_(brighter).abs_()))
    distance = torch.tensor([math.hypot(*place) for place in PLACES])
    best = (torch.cat(costs) + REST_BONUS * distance[:, None, None]).argmin(0, keepdim=True)
    return float(distance[best].mean()), float(torch.cat(lefts).gather(0, best).mean())


def _block_means(x: Tensor) -> Tensor:
    """[H, places, W] -> [places, rows of blocks, columns of blocks]; what is left of a block at the lower and
    right border counts as one."""
    return F.avg_pool2d(x.transpose(0, 1), BLOCK, ceil_mode=True)
