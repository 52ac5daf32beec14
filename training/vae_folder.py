"""The VAE that `training.vae` wrote, for encoding clips."""

from __future__ import annotations

from pathlib import Path

import torch

from rushes.models import wan_vae
from rushes.models.headers import find_weights, read_json
from rushes.models.wan_vae import WanVAE
from rushes.models.weights import load_weights
from rushes.ops.layout import channels_last


def load_vae(folder: Path, device: torch.device, dtype: torch.dtype) -> WanVAE:
    """The VAE of a folder in the diffusers layout."""
    config = wan_vae.config_from_dict(read_json(folder / "config.json"), "diffusers")
    with torch.device("meta"):
        vae = WanVAE(config)
    table = wan_vae.sources(config, "diffusers")
    files = find_weights(folder).present
    return channels_last(load_weights(vae, files, table, wan_vae.keep_float32, dtype, device))
