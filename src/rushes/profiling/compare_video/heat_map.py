"""The heat map of two clips: where and when they differ, on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from rushes.profiling.compare_video.pictures import (
    BACKDROP,
    FAINT,
    GAP,
    INK,
    blank,
    difference_of,
    enlarged,
    enlargement,
    font,
    heat,
    label_strip,
    legend,
    row_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

CHART_HEIGHT = 160
CHART_MARGIN = 48
MAX_DB = 60.0
LINE = (250, 193, 39)


class HeatMap:
    """Takes two clips frame by frame; at each pixel it keeps the sum and the largest of their differences."""

    def __init__(self, height: int, width: int) -> None:
        self._sum = np.zeros((height, width))
        self._max = np.zeros((height, width))
        self._num = 0

    def add(self, a: Picture, b: Picture) -> NDArray[np.float64]:
        """The next frame of both; returns their difference, [H, W] in grey levels."""
        difference = difference_of(a, b)
        self._sum += difference
        np.maximum(self._max, difference, out=self._max)
        self._num += 1
        return difference

    def sheet(self, title: str, frame_psnr_db: Sequence[float]) -> Picture:
        """Mean and largest difference at each pixel, their scale, and PSNR over time; uint8 [H, W, 3]."""
        factor = enlargement(self._sum.shape[1])
        mean, largest = (enlarged(heat(levels), factor) for levels in (self._sum / self._num, self._max))
        maps = row_of([("mean difference over the clip", mean), ("largest difference", largest)])
        width = maps.shape[1]
        inner = width - 2 * GAP
        scale = label_strip("difference in grey levels of 255 (largest of the three channels)", inner)
        parts = [label_strip(title, inner), maps, scale, legend(inner), psnr_chart(frame_psnr_db, inner)]
        return np.concatenate([_centred(part, width) for part in parts])


def psnr_chart(values_db: Sequence[float], width: int) -> Picture:
    """PSNR of each frame as a line, from the lowest ten decibels to 60; equal frames lie at the top."""
    chart = Image.new("RGB", (width, CHART_HEIGHT), BACKDROP)
    pen = ImageDraw.Draw(chart)
    shown = [min(value, MAX_DB) for value in values_db]
    low = min(math.floor(min(shown) / 10) * 10.0, MAX_DB - 10)
    top, bottom = 30, CHART_HEIGHT - 24
    pen.text((0, 10), f"PSNR of each frame, dB ({MAX_DB:.0f} and more at the top)", INK, font(), anchor="lm")

    def place(number: int, value: float) -> tuple[float, float]:
        across = number / max(len(shown) - 1, 1)
        y = bottom - (value - low) / (MAX_DB - low) * (bottom - top)
        return CHART_MARGIN + across * (width - CHART_MARGIN - 1), y

    for level in np.arange(low, MAX_DB + 1, 10):
        y = place(0, level)[1]
        pen.line([(CHART_MARGIN, y), (width, y)], FAINT)
        pen.text((CHART_MARGIN - 8, y), f"{level:.0f}", INK, font(), anchor="rm")
    points = [place(*pair) for pair in enumerate(shown)]
    pen.line(points, LINE, width=2)
    for x, y in points:
        pen.ellipse([x - 2, y - 2, x + 2, y + 2], LINE)
    pen.text((CHART_MARGIN, CHART_HEIGHT - 2), "frame 0", INK, font(), anchor="lb")
    pen.text((width - 1, CHART_HEIGHT - 2), f"{len(shown) - 1}", INK, font(), anchor="rb")
    return np.asarray(chart)


def _centred(part: Picture, width: int) -> Picture:
    canvas = blank(width, part.shape[0] + GAP)
    left = (width - part.shape[1]) // 2
    canvas[GAP // 2 : GAP // 2 + part.shape[0], left : left + part.shape[1]] = part
    return canvas
