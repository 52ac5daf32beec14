"""Tinted sprites as stickers: a white outline, a soft shadow, and blurred copies for small scales."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.world.attributes import COLOURS
from training.world.sprites import SPRITE_SIZE, load_sprites

BORDER = 10
TILE_SIZE = SPRITE_SIZE + 2 * BORDER
BLURS = (0.6, 1.0, 2.0)  # standard deviations in sprite pixels, for the scales 1, 1/2 and 1/4
TINT = 0.9  # share of the tint; the rest keeps the sprite's own colours
LUMA = (0.299, 0.587, 0.114)
OUTLINE = (1.0, 1.0, 0.98)
OUTLINE_OPACITY = 0.8  # softer edges: a fully white outline costs the VAE 1 dB
SHADOW = (0.08, 0.08, 0.20)

# Dark, middle and light shade that a sprite's luminance runs through.
SHADES = {
    "red": ((0.36, 0.01, 0.02), (0.88, 0.09, 0.07), (1.00, 0.46, 0.36)),
    "yellow": ((0.50, 0.33, 0.00), (0.98, 0.80, 0.05), (1.00, 0.97, 0.55)),
    "green": ((0.00, 0.24, 0.08), (0.12, 0.66, 0.20), (0.58, 0.95, 0.50)),
    "blue": ((0.01, 0.06, 0.38), (0.10, 0.38, 0.95), (0.50, 0.80, 1.00)),
    "purple": ((0.16, 0.01, 0.36), (0.49, 0.12, 0.84), (0.78, 0.56, 1.00)),
    "pink": ((0.58, 0.06, 0.36), (1.00, 0.40, 0.74), (1.00, 0.78, 0.93)),
}


def build_atlas(device: torch.device) -> Tensor:
    """Every sprite in every colour and blur: premultiplied uint8 [subjects * colours, 4, blurs, 100, 100]."""
    sprites = F.pad(load_sprites().to(device), [BORDER] * 4)
    rgb, alpha = sprites[:, :3], sprites[:, 3:]
    light = _evened(_luminance(rgb), alpha)
    tinted = [rgb, *[torch.lerp(rgb, _shade(light, SHADES[name]), TINT) for name in COLOURS[1:]]]
    ground = _ground(alpha) * (1 - alpha)
    stickers = torch.stack([torch.cat([paint * alpha, alpha], 1) + ground for paint in tinted], 1).flatten(
        0, 1
    )
    levels = [(_blur(stickers, sigma) * 255).round().to(torch.uint8) for sigma in BLURS]
    return torch.stack(levels, dim=2)


def _luminance(rgb: Tensor) -> Tensor:
    return (rgb * rgb.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def _evened(light: Tensor, alpha: Tensor) -> Tensor:
    """Luminance stretched over the whole range of each sprite: a black bat must still show its colour."""
    flat = torch.where(alpha > 0.5, light, torch.nan).flatten(1)
    low = torch.nanquantile(flat, 0.04, dim=1)[:, None, None, None]
    high = torch.nanquantile(flat, 0.96, dim=1)[:, None, None, None]
    middle = torch.nanquantile(flat, 0.5, dim=1)[:, None, None, None]
    even = ((light - low) / (high - low).clamp(min=0.15)).clamp(0, 1)
    centre = ((middle - low) / (high - low).clamp(min=0.15)).clamp(0.15, 0.85)
    return even ** (torch.log(torch.tensor(0.52, device=light.device)) / torch.log(centre))


def _shade(light: Tensor, shades: tuple[tuple[float, ...], ...]) -> Tensor:
    dark, middle, pale = (light.new_tensor(shade)[:, None, None] for shade in shades)
    below, above = (2 * light).clamp(0, 1), (2 * light - 1).clamp(0, 1)
    return torch.lerp(torch.lerp(dark.expand_as(below.expand(-1, 3, -1, -1)), middle, below), pale, above)


def _ground(alpha: Tensor) -> Tensor:
    """White outline over shadow, premultiplied [S, 4, H, W]."""
    grown = _blur(F.max_pool2d(_blur(alpha, 0.8), 5, stride=1, padding=2), 0.9)
    outline = (1.6 * grown - 0.15).clamp(0, 1)
    shadow = 0.28 * _blur(outline, 2.6)
    outline = OUTLINE_OPACITY * outline
    return _painted(OUTLINE, outline) + _painted(SHADOW, shadow) * (1 - outline)


def _painted(colour: tuple[float, ...], alpha: Tensor) -> Tensor:
    return torch.cat([alpha * alpha.new_tensor(colour)[:, None, None], alpha], 1)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [..., H, W], as a product with a banded matrix from either side."""
    place = torch.arange(images.shape[-1], device=images.device, dtype=torch.float32)
    band = torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
    band = band / band.sum(1, keepdim=True)
    return band @ images @ band.T
