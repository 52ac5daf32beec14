"""A transformer that precision passes can change, and one forward of it."""

from dataclasses import replace

import torch

from rushes.models.configs import ExpertsConfig, WanConfig
from rushes.models.wan import Wan

SMALL = WanConfig(
    num_layers=3,
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    ffn_dim=64,
    text_dim=8,
    freq_dim=16,
)
ROUTED = replace(SMALL, experts=ExpertsConfig(num_experts=4, top_k=2, expert_dim=16, shared_dim=16))


def small_wan(config=SMALL, seed=0):
    """Always the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Wan(config).eval().requires_grad_(False)


@torch.no_grad()
def forward(wan, *, batch=1, frames=3, seed=1, timestep=700.0, **options):
    generator = torch.Generator().manual_seed(seed)
    context = wan.encode_text(torch.randn(batch, 5, wan.config.text_dim, generator=generator))
    latents = torch.randn(batch, 4, frames, 8, 8, generator=generator)
    return wan(latents, torch.full((batch,), timestep), context, **options)


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())
