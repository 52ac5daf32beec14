"""A decode step tile by tile: equal tiles that overlap, blended in pixels.

A tile knows nothing beyond its edge, and attention of the lowest level stays inside a tile, so the picture is
near the whole decode's, not equal. Each tile has a state of its own: a clip still streams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rushes.models.wan_vae import DecodeState, DecodeStep, WanVAE


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Where tiles of `size` (rows, columns) cells lie in a latent, row by row."""

    size: tuple[int, int]
    corners: tuple[tuple[int, int], ...]


def lay_tiles(cells: tuple[int, int], tile: tuple[int, int], overlap: int) -> Tiles:
    """The fewest tiles that cover `cells` (rows, columns), all of one size, evenly spread.

    Args:
        tile: rows and columns of a tile; a smaller latent has smaller tiles.
        overlap: least cells that neighbours share.
    """
    size = (min(tile[0], cells[0]), min(tile[1], cells[1]))
    rows, columns = (_starts(cells[axis], size[axis], overlap) for axis in (0, 1))
    return Tiles(size=size, corners=tuple((row, column) for row in rows for column in columns))


def _starts(cells: int, tile: int, overlap: int) -> list[int]:
    if tile >= cells:
        return [0]
    count = math.ceil((cells - overlap) / (tile - overlap))
    return [round(i * (cells - tile) / (count - 1)) for i in range(count)]


class TiledStep:
    """Implements `DecodeStep` around another.

    Args:
        inner: decodes a tile.
        together: all tiles as one batch, instead of one after another.
    """

    def __init__(self, inner: DecodeStep, tile: tuple[int, int], overlap: int, *, together: bool) -> None:
        self._inner, self._tile, self._overlap, self._together = inner, tile, overlap, together

    def __call__(self, vae: WanVAE, latent: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
        """See `DecodeStep`."""
        cells = (latent.shape[-2], latent.shape[-1])
        tiles = lay_tiles(cells, self._tile, self._overlap)
        height, width = tiles.size
        latents = [latent[..., y : y + height, x : x + width] for y, x in tiles.corners]
        decode = self._decode_together if self._together else self._decode_in_turn
        return decode(vae, latents, state, Blend(tiles, cells, vae.config.spatial_stride))

    def _decode_in_turn(
        self, vae: WanVAE, latents: list[Tensor], state: DecodeState | None, blend: Blend
    ) -> tuple[Tensor, DecodeState]:
        past: list[Tensor] = []
        for number, latent in enumerate(latents):
            before = None
            if state is not None:
                size = len(state.past) // len(latents)
                before = DecodeState(past=state.past[number * size : (number + 1) * size])
            frames, after = self._inner(vae, latent, before)
            past += after.past
            blend.add(number, frames)
        return blend.result(), DecodeState(past=tuple(past))

    def _decode_together(
        self, vae: WanVAE, latents: list[Tensor], state: DecodeState | None, blend: Blend
    ) -> tuple[Tensor, DecodeState]:
        frames, after = self._inner(vae, torch.cat(latents), state)
        for number, part in enumerate(frames.chunk(len(latents))):
            blend.add(number, part)
        return blend.result(), after


class Blend:
    """Adds up the frames of tiles, weighted by their distance from those edges that are not the picture's.

    Args:
        stride: pixels a cell.
    """

    def __init__(self, tiles: Tiles, cells: tuple[int, int], stride: int) -> None:
        self._tiles, self._cells, self._stride = tiles, cells, stride
        self._total: Tensor | None = None
        self._weight = torch.zeros(())
        self._dtype = torch.float32

    def add(self, number: int, frames: Tensor) -> None:
        """Frames [B, 3, T, tile rows, tile columns] of tile `number`."""
        stride = self._stride
        height, width = (cells * stride for cells in self._cells)
        if self._total is None:
            self._dtype = frames.dtype
            self._total = frames.new_zeros(*frames.shape[:3], height, width, dtype=torch.float32)
            self._weight = frames.new_zeros(height, width, dtype=torch.float32)
        corner, size = self._tiles.corners[number], self._tiles.size
        down, across = (
            _ramp(corner[axis], size[axis], self._cells[axis], stride, frames.device) for axis in (0, 1)
        )
        weight = down[:, None] * across[None, :]
        rows = slice(corner[0] * stride, (corner[0] + size[0]) * stride)
        columns = slice(corner[1] * stride, (corner[1] + size[1]) * stride)
        self._total[..., rows, columns] += frames.float() * weight
        self._weight[rows, columns] += weight

    def result(self) -> Tensor:
        """[B, 3, T, H, W], in the tiles' dtype."""
        assert self._total is not None, "a latent has at least one tile"
        return self._total.div_(self._weight).to(self._dtype)


def _ramp(start: int, size: int, cells: int, stride: int, device: torch.device) -> Tensor:
    """Along one axis, pixels to the nearer edge that is not the picture's. [size * stride]"""
    pixels = torch.arange(size * stride, device=device) + 0.5
    far = float(size * stride)
    left = pixels if start > 0 else torch.full_like(pixels, far)
    right = far - pixels if start + size < cells else torch.full_like(pixels, far)
    return torch.minimum(left, right)
