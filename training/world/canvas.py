"""Soft-edged shapes on a batch of pictures: what the landscapes are painted with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Colour = tuple[float, float, float]

BANK_WIDTH, BANK_HEIGHT = 288, 192
ASPECT = BANK_WIDTH / BANK_HEIGHT
EDGE = 1.6 / BANK_HEIGHT  # width of an anti-aliased edge


class Canvas:
    """`num` pictures painted together, every parameter drawn once per picture.

    `x` runs over [0, 1.5] and `y` over [0, 1] downwards, both in units of the picture's height. Masks are
    [num, H, W] in [0, 1]. Random numbers come from a CPU generator, so that every device paints the same.
    """

    def __init__(self, num: int, seed: int, device: torch.device) -> None:
        self.num, self.device = num, device
        self._generator = torch.Generator().manual_seed(seed)
        y = (torch.arange(BANK_HEIGHT, device=device) + 0.5) / BANK_HEIGHT
        x = (torch.arange(BANK_WIDTH, device=device) + 0.5) / BANK_HEIGHT
        self.y, self.x = y[None, :, None], x[None, None, :]
        self.rgb = torch.zeros(num, 3, BANK_HEIGHT, BANK_WIDTH, device=device)

    def draw(self, low: float, high: float) -> Tensor:
        """One uniform number per picture, [num, 1, 1]."""
        numbers = torch.rand(self.num, 1, 1, generator=self._generator)
        return (low + (high - low) * numbers).to(self.device)

    def jittered(self, colour: Colour, amount: float = 0.035) -> Tensor:
        """The colour moved a little, differently for each picture, [num, 3, 1, 1]."""
        offset = torch.randn(self.num, 3, 1, 1, generator=self._generator).to(self.device)
        return torch.tensor(colour, device=self.device)[None, :, None, None] + amount * offset

    def fill(self, mask: Tensor, colour: Colour | Tensor) -> None:
        """Paints the colour where the mask is 1, mixed where it is between."""
        paint = self.jittered(colour) if isinstance(colour, tuple) else colour
        self.rgb = torch.lerp(self.rgb, paint.expand_as(self.rgb), mask[:, None].expand_as(self.rgb))

    def gradient(
        self, top: Colour, bottom: Colour, start: Tensor | float = 0.0, end: Tensor | float = 1.0
    ) -> Tensor:
        """A vertical blend from `start` to `end`, [num, 3, H, 1], as a colour for `fill`."""
        weight = ((self.y - start) / (end - start)).clamp(0, 1).expand(self.num, -1, -1)[:, None]
        return torch.lerp(self.jittered(top).expand(-1, -1, BANK_HEIGHT, -1), self.jittered(bottom), weight)

    def below(self, line: Tensor, edge: float = EDGE) -> Tensor:
        """Mask of everything under a line y(x) given as [num, 1, W] or [num, 1, 1]."""
        return ((self.y - line) / edge + 0.5).clamp(0, 1).expand(self.num, BANK_HEIGHT, BANK_WIDTH)

    def between(self, top: Tensor, bottom: Tensor, edge: float = EDGE) -> Tensor:
        """Mask of the band between two lines."""
        return self.below(top, edge) * (1 - self.below(bottom, edge))

    def disk(
        self, x: Tensor, y: Tensor, radius: Tensor | float, edge: float = EDGE, squash: float = 1.0
    ) -> Tensor:
        """Mask of an ellipse `squash` times as high as wide."""
        distance = torch.hypot(self.x - x, (self.y - y) / squash)
        return ((radius - distance) / edge + 0.5).clamp(0, 1)

    def glow(self, x: Tensor, y: Tensor, radius: Tensor | float, strength: float = 1.0) -> Tensor:
        """Mask of a Gaussian spot."""
        squared = (self.x - x) ** 2 + (self.y - y) ** 2
        return strength * torch.exp(-squared / (2 * radius**2))

    def waves(self, level: Tensor | float, height: float, length: float) -> Tensor:
        """A rolling line: three sines of random phase around `level`, [num, 1, W]."""
        line = torch.zeros(self.num, 1, BANK_WIDTH, device=self.device) + level
        for weight, octave in ((0.6, 1.0), (0.3, 2.1), (0.1, 3.7)):
            phase = self.draw(0, 2 * math.pi)
            line = line + weight * height * torch.sin(2 * math.pi * octave * self.x / length + phase)
        return line

    def cells(self, width: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Splits x into cells: a random number for the cell under each x, the place in it, [num, 1, W]."""
        position = (self.x / width + self.draw(0, 1)).expand(self.num, 1, BANK_WIDTH)
        table = torch.rand(self.num, 64, generator=self._generator).to(self.device)
        number = table.gather(1, position[:, 0].long().clamp(0, 63))[:, None]
        return low + (high - low) * number, position.frac()

    def peaks(self, level: float, height: float, width: Tensor) -> Tensor:
        """A jagged line of one triangle per cell, its tip up to `height` above `level`, [num, 1, W]."""
        tip, position = self.cells(width, 0.6 * height, height)
        return level - tip * (1 - (2 * position - 1).abs())

    def pictures(self) -> Tensor:
        """The result as uint8 [num, 3, H, W]."""
        return (self.rgb.clamp(0, 1) * 255).round().to(torch.uint8)
