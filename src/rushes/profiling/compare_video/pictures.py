"""Pieces of pictures: heat in colours, labels, panels in a row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

BACKDROP = (24, 24, 27)
INK = (228, 228, 231)
FAINT = (63, 63, 70)
GAP = 8
LABEL_HEIGHT = 26
FONT_SIZE = 14
MIN_PANEL_WIDTH = 384
TICKS = (0, 1, 4, 16, 64, 255)
HEAT = (
    (0, 0, 4),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)
"""From no difference to the largest: matplotlib's inferno (CC0), at even distances."""


def heat(difference: NDArray[np.float64]) -> Picture:
    """Grey levels of 0..255, [H, W], as colours [H, W, 3].

    The place on the scale is the root of the level, the same in every picture: small differences show, and
    pictures can be compared.
    """
    place = np.sqrt(difference.clip(0, 255) / 255)
    colours: Picture = _scale()[(place * 255).round().astype(np.intp)]
    return colours


@cache
def _scale() -> Picture:
    stops = np.linspace(0, 255, len(HEAT))
    channels = [np.interp(np.arange(256), stops, [stop[i] for stop in HEAT]) for i in range(3)]
    return np.stack(channels, 1).round().astype(np.uint8)


def difference_of(a: Picture, b: Picture) -> NDArray[np.float64]:
    """The largest difference of the three channels at each pixel, [H, W]."""
    largest: NDArray[np.int16] = np.abs(a.astype(np.int16) - b).max(2)
    return largest.astype(np.float64)


def enlargement(width: int) -> int:
    """The whole factor that brings small clips to a width that can be looked at."""
    return max(1, MIN_PANEL_WIDTH // width)


def enlarged(picture: Picture, factor: int) -> Picture:
    """Every pixel as a square of `factor` pixels."""
    return picture.repeat(factor, 0).repeat(factor, 1)


def row_of(panels: Sequence[tuple[str, Picture]]) -> Picture:
    """Labelled panels of one height side by side, on an even number of pixels each way."""
    height = max(panel.shape[0] for _, panel in panels)
    width = sum(panel.shape[1] for _, panel in panels) + GAP * (len(panels) + 1)
    canvas = blank(width + width % 2, (height + GAP + LABEL_HEIGHT + 1) // 2 * 2)
    left = GAP
    for label, panel in panels:
        canvas[LABEL_HEIGHT : LABEL_HEIGHT + panel.shape[0], left : left + panel.shape[1]] = panel
        canvas[:LABEL_HEIGHT, left : left + panel.shape[1]] = label_strip(label, panel.shape[1])
        left += panel.shape[1] + GAP
    return canvas


def blank(width: int, height: int) -> Picture:
    """An empty canvas, [height, width, 3]."""
    return np.full((height, width, 3), BACKDROP, np.uint8)


def label_strip(text: str, width: int) -> Picture:
    """A line of text, cut to the width, [LABEL_HEIGHT, width, 3]."""
    strip = Image.new("RGB", (width, LABEL_HEIGHT), BACKDROP)
    pen = ImageDraw.Draw(strip)
    while len(text) > 1 and pen.textlength(text, font=font()) > width:
        text = text.rstrip("…")[:-1] + "…"
    pen.text((0, LABEL_HEIGHT // 2), text, INK, font(), anchor="lm")
    return np.asarray(strip)


@cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow brings."""
    return ImageFont.load_default(FONT_SIZE)


def legend(width: int) -> Picture:
    """The heat scale with its grey levels, [2 * LABEL_HEIGHT, width, 3]."""
    levels = np.square(np.linspace(0, 1, width)) * 255
    bar = np.broadcast_to(heat(levels[None]), (LABEL_HEIGHT // 2, width, 3))
    strip = Image.new("RGB", (width, 2 * LABEL_HEIGHT - bar.shape[0]), BACKDROP)
    pen = ImageDraw.Draw(strip)
    for tick in TICKS:
        anchor = "lt" if tick == TICKS[0] else "rt" if tick == TICKS[-1] else "mt"
        pen.text((round((tick / 255) ** 0.5 * (width - 1)), 6), str(tick), INK, font(), anchor=anchor)
    return np.concatenate([bar, np.asarray(strip)])
