"""Endless rendered clips of the training split, with their labels and captions."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from training.world.attributes import BACKGROUNDS, COLOURS, COUNTS, MOTIONS, NO_SUBJECT, NUM_FRAMES, SIZES
from training.world.captions import caption
from training.world.renderer import Renderer
from training.world.scenes import Scenes, sample_scenes
from training.world.subjects import subjects

ATTRIBUTES = ("subject", "background", "motion", "colour", "count")
"""The attributes of the joint score."""

TABLE_SIZE = 65536  # scenes drawn at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """video [B, 3, T, H, W] in [-1, 1]; labels int64 [B] by attribute; captions, as many a clip as asked
    for."""

    video: Tensor
    labels: dict[str, Tensor]
    captions: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoveredClips:
    """Clips with captions, and cover [B, T, H, W] in [0, 1], how much of each pixel sprites cover."""

    video: Tensor
    cover: Tensor
    captions: list[str]


def labels_of(scenes: Scenes, device: torch.device) -> dict[str, Tensor]:
    """Class indices by attribute."""
    columns = {name: getattr(scenes, name) for name in (*ATTRIBUTES, "size")}
    columns["count"] = columns["count"] - 1
    return {name: torch.from_numpy(column.astype(np.int64)).to(device) for name, column in columns.items()}


class ClipSource:
    """Draws clips on the GPU if there is one."""

    num_classes: ClassVar = {
        "subject": len(subjects()),
        "background": len(BACKGROUNDS),
        "motion": len(MOTIONS),
        "colour": len(COLOURS),
        "count": len(COUNTS),
        "size": len(SIZES),
    }

    def __init__(self, seed: int) -> None:
        self.on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.on_gpu else "cpu")
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self.renderer = Renderer(self.device, self.dtype) if self.on_gpu else Renderer(num_variants=2)
        self._rng = np.random.default_rng(seed)
        self._words = random.Random(seed)
        self._table = sample_scenes(TABLE_SIZE if self.on_gpu else 512, self._rng)
        self._next = 0

    def scenes(self, size: int, *, pairs: bool = True) -> Scenes:
        """The next scenes; without `pairs`, those with one subject."""
        if self._next + 2 * size > len(self._table):
            self._table, self._next = sample_scenes(len(self._table), self._rng), 0
        table = self._table[self._next : self._next + 2 * size]
        chosen = np.flatnonzero((table.subject2 == NO_SUBJECT) | pairs)[:size]
        self._next += int(chosen[-1]) + 1
        return table[chosen]

    def draw(
        self,
        size: int,
        *,
        pairs: bool = True,
        every: int = 1,
        crop: tuple[int, int, int] | None = None,
        captions: int = 0,
    ) -> Clips:
        """`size` fresh clips (every n-th frame of them, or random windows) with this many captions each."""
        scenes = self.scenes(size, pairs=pairs)
        video = self.renderer.render(scenes, frames=torch.arange(0, NUM_FRAMES, every), crop=crop)
        words = self._captions(scenes, captions)
        return Clips(video=video, labels=labels_of(scenes, self.device), captions=words)

    def draw_covered(self, size: int, *, captions: int, num_frames: int = NUM_FRAMES) -> CoveredClips:
        """The beginnings of `size` fresh clips with this many captions each, and where their sprites are."""
        scenes = self.scenes(size)
        video, cover = self.renderer.render_covered(scenes, num_frames)
        return CoveredClips(video=video, cover=cover, captions=self._captions(scenes, captions))

    def _captions(self, scenes: Scenes, num: int) -> list[str]:
        return [caption(scenes, row, self._words) for row in range(len(scenes)) for _ in range(num)]
