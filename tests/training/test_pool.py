"""Where the sprites are, in latent cells."""

from __future__ import annotations

import torch
from training.pool import latent_cover
from training.vae import CONFIG

from rushes.models.wan_vae import WanVAE


def test_a_cell_holds_the_mean_of_its_pixels_and_frames() -> None:
    cover = torch.zeros(1, 5, 16, 24)
    cover[0, 0, :8, :8] = 1.0  # the clip's first frame is a latent of its own
    cover[0, 1:3, 8:, 16:] = 1.0  # two of the four frames of the second
    with torch.device("meta"):
        vae = WanVAE(CONFIG)
    cells = latent_cover(cover, vae)
    assert cells.shape == (1, 1, 2, 2, 3)
    wanted = torch.zeros(2, 2, 3, dtype=torch.uint8)
    wanted[0, 0, 0], wanted[1, 1, 2] = 255, 128
    assert torch.equal(cells[0, 0], wanted)
