"""The VAE that `training.vae` wrote, for encoding clips and decoding samples."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rushes.models import wan_vae
from rushes.models.headers import SINGLE_FILES, read_json
from rushes.models.wan_vae import WanVAE
from rushes.models.weights import load_weights
from training.vae import channels_last


def load_vae(folder: Path, device: torch.device, dtype: torch.dtype) -> WanVAE:
    """The VAE of a folder in the diffusers layout."""
    config = wan_vae.config_from_dict(read_json(folder / "config.json"), "diffusers")
    with torch.device("meta"):
        vae = WanVAE(config)
    table = wan_vae.sources(config, "diffusers")
    files = [file for name in SINGLE_FILES if (file := folder / name).is_file()][:1]
    return channels_last(load_weights(vae, files, table, wan_vae.keep_float32, dtype, device))


def encode(vae: WanVAE, video: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> normalised latents float32 [B, z, T', h, w], by one convolution over the whole
    clip."""
    mean, _ = vae.posterior(video)
    shift, scale = (
        torch.tensor(values, device=mean.device).view(-1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (mean.float() - shift) / scale
