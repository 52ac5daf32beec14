"""A rough look at latents without decoding them: a linear map from latent channels to RGB."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rushes.models.wan_vae import WanVAE
from rushes.stages.vae_decode import to_numpy

SAMPLES_PER_UNKNOWN = 6
FIT_SIZE = 4


@torch.no_grad()
def fit_latent_rgb(vae: WanVAE) -> Tensor:
    """The affine map [z_dim + 1, 3] that best explains the VAE's own colours (least squares; last row: bias).

    Decodes random latents that are constant over a small square, each as a first frame, and compares with the
    mean colour of what comes out. Once per VAE: a fixed seed makes it repeatable.
    """
    num_samples = SAMPLES_PER_UNKNOWN * (vae.config.z_dim + 1)
    parameter = next(vae.parameters())
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((num_samples, vae.config.z_dim), generator=generator)
    squares = latents[:, :, None, None, None].expand(-1, -1, 1, FIT_SIZE, FIT_SIZE)
    video, _ = vae.decode_step(squares.to(parameter.device), None)
    colours = video.float().mean(dim=(2, 3, 4)).cpu()
    ones = torch.ones((num_samples, 1))
    fitted: Tensor = torch.linalg.lstsq(torch.cat([latents, ones], dim=1), colours).solution
    return fitted


def preview_frames(latents: Tensor, latent_rgb: Tensor) -> NDArray[np.uint8]:
    """Latents [1, C, T, h, w] seen through the map of `fit_latent_rgb`: uint8 [T, h, w, 3]."""
    weight = latent_rgb.to(latents.device)
    pixels = torch.einsum("bcthw,cr->brthw", latents.float(), weight[:-1])
    return to_numpy(pixels + weight[-1].view(1, 3, 1, 1, 1))
