"""The sprite sheet: Noto Color Emoji glyphs, trimmed, centred and committed, so that training needs no font.

`python -m training.world.sprites` rebuilds `training/assets/sprites.webp` from the installed font.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from training.world.subjects import ASSETS, subjects

SPRITE_SIZE = 80
SHEET_COLUMNS = 13
SHEET = ASSETS / "sprites.webp"
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the only bitmap strike of the font, in pixels
RADIUS = 47.0  # no opaque pixel lies further from the centre: a spinning sprite keeps its cell


def load_sprites() -> torch.Tensor:
    """The committed sheet as [subjects, 4, 80, 80] float32 in [0, 1], straight (not premultiplied) RGBA."""
    sheet = np.asarray(Image.open(SHEET).convert("RGBA"))
    rows = sheet.shape[0] // SPRITE_SIZE
    cells = sheet.reshape(rows, SPRITE_SIZE, SHEET_COLUMNS, SPRITE_SIZE, 4).transpose(0, 2, 4, 1, 3)
    cells = cells.reshape(-1, 4, SPRITE_SIZE, SPRITE_SIZE)[: len(subjects())]
    return torch.from_numpy(np.ascontiguousarray(cells)).float() / 255


def build_sheet(font_path: Path = FONT) -> Image.Image:
    """Draws every subject's glyph into its 80x80 cell, row by row in the order of `subjects()`."""
    font = ImageFont.truetype(str(font_path), FONT_SIZE)
    rows = -(-len(subjects()) // SHEET_COLUMNS)
    sheet = Image.new("RGBA", (SHEET_COLUMNS * SPRITE_SIZE, rows * SPRITE_SIZE))
    for subject in subjects():
        cell = _draw_glyph(chr(int(subject.emoji[2:], 16)), font)
        row, column = divmod(subject.id, SHEET_COLUMNS)
        sheet.paste(cell, (column * SPRITE_SIZE, row * SPRITE_SIZE))
    return sheet


def _draw_glyph(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    canvas = Image.new("RGBA", (2 * FONT_SIZE, 2 * FONT_SIZE))
    ImageDraw.Draw(canvas).text((FONT_SIZE // 4, FONT_SIZE // 4), text, font=font, embedded_color=True)
    glyph = canvas.crop(canvas.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox())
    scale = min(SPRITE_SIZE / max(glyph.size), RADIUS / _radius(glyph))
    size = (round(glyph.width * scale), round(glyph.height * scale))
    glyph = _resize(glyph, size)
    cell = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE))
    cell.paste(glyph, ((SPRITE_SIZE - size[0]) // 2, (SPRITE_SIZE - size[1]) // 2))
    return cell


def _radius(glyph: Image.Image) -> float:
    """Distance in pixels of the opaque pixel that lies furthest from the centre."""
    rows, columns = np.nonzero(np.asarray(glyph.getchannel("A")) > 64)
    return float(np.hypot(columns - (glyph.width - 1) / 2, rows - (glyph.height - 1) / 2).max())


def _resize(glyph: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resized with premultiplied alpha, so that no dark fringe is left around the shape."""
    return glyph.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", type=Path, default=FONT)
    build_sheet(parser.parse_args().font).save(SHEET, lossless=True, exact=True, quality=100, method=6)


if __name__ == "__main__":
    main()
