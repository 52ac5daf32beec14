"""A contact sheet of rendered scenes: `python -m training.world.preview --out FILE.png`."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from training.world.attributes import NUM_FRAMES
from training.world.captions import captions
from training.world.renderer import Renderer
from training.world.scenes import Scenes, sample_scenes

CAPTION_HEIGHT = 14


def contact_sheet(clips: torch.Tensor, texts: list[str], columns: int = 1) -> Image.Image:
    """Clips [B, 3, T, H, W] in [-1, 1] as rows of frames with the caption above each row."""
    batch, _, num_frames, height, width = clips.shape
    strips = (
        ((clips.float() + 1) * 127.5)
        .byte()
        .permute(0, 3, 2, 4, 1)
        .reshape(batch, height, -1, 3)
        .cpu()
        .numpy()
    )
    row_height, row_width = height + CAPTION_HEIGHT, num_frames * width + 6
    sheet = Image.new("RGB", (columns * row_width, -(-batch // columns) * row_height), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (strip, text) in enumerate(zip(strips, texts, strict=True)):
        corner = (index % columns * row_width, index // columns * row_height)
        pen.text((corner[0] + 3, corner[1] + 1), text, fill="black")
        sheet.paste(Image.fromarray(strip), (corner[0], corner[1] + CAPTION_HEIGHT))
    return sheet


def preview(scenes: Scenes, texts: list[str], num_frames: int = 6, columns: int = 2) -> Image.Image:
    """The contact sheet of some scenes, drawn on the CPU."""
    frames = torch.linspace(0, NUM_FRAMES - 1, num_frames).round()
    clips = Renderer(num_variants=8).render(scenes, frames=frames, allow_held_out=True)
    return contact_sheet(clips, texts, columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    scenes = sample_scenes(arguments.num, rng)
    preview(scenes, captions(scenes, random.Random(arguments.seed))).save(arguments.out)


if __name__ == "__main__":
    main()
