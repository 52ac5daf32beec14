"""VAEs of true shapes with random weights, and diffusers' with the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from benchmarks.random_wan import random_vae
from diffusers import AutoencoderKLWan
from torch import Tensor

from rushes.models import wan_vae
from rushes.models.configs import WanVAEConfig
from rushes.models.wan_vae import WanVAE


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeShapes:
    """What a run measures.

    Attributes:
        configs: by model, "2.1" and "2.2".
        clips: latents (T', h, w) by "model size".
        short: latents at which a float32 reference is made.
        convs: (model, frames, rows, columns, channels in, channels out) of 3x3x3 convolutions.
        doublings: the same of 2-D convolutions behind a doubling; rows and columns before it.
        tiles: (rows, columns) of a tile in latent cells, and the cells that neighbours share.
        few: latent frames of the rows that need no whole clip.
    """

    configs: Mapping[str, WanVAEConfig]
    clips: Mapping[str, tuple[int, int, int]]
    short: tuple[int, int, int]
    convs: tuple[tuple[str, int, int, int, int, int], ...]
    doublings: tuple[tuple[str, int, int, int, int, int], ...]
    tiles: tuple[tuple[tuple[int, int], int], ...]
    few: int


TRUE = VaeShapes(
    configs={"2.1": wan_vae.WAN21_VAE, "2.2": wan_vae.WAN22_VAE},
    clips={"2.1 480p81": (21, 60, 104), "2.1 720p81": (21, 90, 160), "2.2 704p121": (31, 44, 80)},
    short=(3, 20, 24),
    convs=(
        ("2.1", 1, 60, 104, 384, 384),
        ("2.1", 2, 120, 208, 192, 384),
        ("2.1", 2, 120, 208, 384, 384),
        ("2.1", 4, 240, 416, 192, 192),
        ("2.1", 4, 480, 832, 96, 96),
        ("2.1", 4, 480, 832, 96, 8),
        ("2.2", 2, 88, 160, 1024, 1024),
        ("2.2", 4, 176, 320, 1024, 512),
        ("2.2", 4, 176, 320, 512, 512),
        ("2.2", 4, 352, 640, 256, 256),
        ("2.2", 4, 352, 640, 256, 16),
    ),
    doublings=(
        ("2.1", 4, 240, 416, 192, 96),
        ("2.2", 4, 88, 160, 1024, 1024),
        ("2.2", 4, 176, 320, 512, 512),
    ),
    tiles=(((34, 56), 8), ((34, 54), 4), ((24, 32), 8)),
    few=5,
)

_SMALL = replace(wan_vae.WAN21_VAE, base_dim=8, num_res_blocks=1)
TINY = VaeShapes(
    configs={
        "2.1": _SMALL,
        "2.2": replace(wan_vae.WAN22_VAE, base_dim=8, decoder_base_dim=8, num_res_blocks=1),
    },
    clips={"2.1 480p81": (3, 4, 6), "2.1 720p81": (2, 4, 6), "2.2 704p121": (3, 4, 4)},
    short=(2, 2, 3),
    convs=(("2.1", 2, 4, 6, 8, 8), ("2.2", 1, 4, 6, 16, 8)),
    doublings=(("2.1", 2, 3, 4, 8, 4),),
    tiles=(((3, 4), 2),),
    few=2,
)


def bf16_latents(
    config: WanVAEConfig, batch: int, shape: tuple[int, int, int], device: torch.device
) -> Tensor:
    """Normalised latents [B, z, T', h, w] in float32 that are bfloat16 numbers: no side rounds them."""
    generator = torch.Generator(device).manual_seed(11)
    values = torch.empty(batch, config.z_dim, *shape, dtype=torch.bfloat16, device=device)
    return values.normal_(generator=generator).float()


def diffusers_config(config: WanVAEConfig) -> dict[str, Any]:
    """What diffusers' VAE of that shape is made with."""
    return {
        "base_dim": config.base_dim,
        "decoder_base_dim": config.decoder_base_dim,
        "z_dim": config.z_dim,
        "dim_mult": list(config.dim_mult),
        "num_res_blocks": config.num_res_blocks,
        "temperal_downsample": list(config.temporal_downsample),
        "is_residual": config.is_residual,
        "patch_size": config.patch_size if config.patch_size > 1 else None,
        "in_channels": config.in_channels * config.patch_size**2,
        "out_channels": config.out_channels * config.patch_size**2,
        "latents_mean": list(config.latents_mean),
        "latents_std": list(config.latents_std),
        "scale_factor_temporal": config.temporal_stride,
        "scale_factor_spatial": config.spatial_stride,
    }


def diffusers_vae(vae: WanVAE) -> AutoencoderKLWan:
    """diffusers' VAE with the weights of ours, in their dtype."""
    config = vae.config
    with torch.device("meta"):
        twin = AutoencoderKLWan(**diffusers_config(config))
    shapes = {name: parameter.shape for name, parameter in twin.named_parameters()}
    state = vae.state_dict()
    theirs = {
        source.names[0]: state[name].contiguous().view(shapes[source.names[0]])
        for name, source in wan_vae.sources(config, "diffusers").items()
    }
    twin.load_state_dict(theirs, assign=True)
    return twin.eval().requires_grad_(False)


def diffusers_decode(twin: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Of normalised latents, as its pipeline decodes them."""
    config = twin.config
    mean, std = (
        torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    denormalised = (latents * std + mean).to(next(twin.parameters()).dtype)
    video: Tensor = twin.decode(denormalised, return_dict=False)[0]
    return video


__all__ = [
    "TINY",
    "TRUE",
    "VaeShapes",
    "bf16_latents",
    "diffusers_config",
    "diffusers_decode",
    "diffusers_vae",
    "random_vae",
]
