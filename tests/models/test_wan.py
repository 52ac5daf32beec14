"""The transformer against diffusers' and against itself in its other forms."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel

from rushes.models.configs import ExpertsConfig, WanConfig
from rushes.models.wan import KVCache, TextContext, Wan, cast_weights, keep_float32, sources

A14B = WanConfig(
    num_layers=2, num_attention_heads=3, attention_head_dim=32, in_channels=16, out_channels=16, ffn_dim=160,
    text_dim=48,
)  # fmt: skip
TI2V_5B = WanConfig(
    num_layers=3, num_attention_heads=2, attention_head_dim=24, in_channels=48, out_channels=48, ffn_dim=144,
    text_dim=40,
)  # fmt: skip
TOY = WanConfig(
    num_layers=3, num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, ffn_dim=64,
    text_dim=24, text_len=6, pooled_dim=20, first_expert_layer=1,
    experts=ExpertsConfig(num_experts=4, top_k=2, expert_dim=16, shared_dim=32),
)  # fmt: skip


def oracle(config: WanConfig) -> WanTransformer3DModel:
    """diffusers' model with random weights, biases and norms included."""
    model = WanTransformer3DModel(
        num_layers=config.num_layers, num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.attention_head_dim, in_channels=config.in_channels,
        out_channels=config.out_channels, ffn_dim=config.ffn_dim, text_dim=config.text_dim,
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def from_oracle(model: WanTransformer3DModel, config: WanConfig) -> Wan:
    theirs = model.state_dict()
    ours = {}
    for name, source in sources(config, "diffusers").items():
        joined = torch.cat([theirs.pop(part) for part in source.names])
        ours[name] = joined.view(source.reshape) if source.reshape else joined
    assert not theirs
    wan = Wan(config)
    wan.load_state_dict(ours)
    return wan.eval().requires_grad_(False)


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("config", [A14B, TI2V_5B], ids=["a14b", "ti2v-5b"])
@pytest.mark.parametrize(("size", "text_len"), [((3, 6, 10), 512), ((1, 4, 4), 77), ((5, 8, 2), 1)])
def test_forward_equals_diffusers(config: WanConfig, size: tuple[int, int, int], text_len: int) -> None:
    theirs = oracle(config)
    ours = from_oracle(theirs, config)
    latents = torch.randn(2, config.in_channels, *size)
    timestep = torch.rand(2) * 1000
    states = torch.randn(2, text_len, config.text_dim)
    want = theirs(latents, timestep, states, return_dict=False)[0]
    got = ours(latents, timestep, ours.encode_text(states))
    assert relative_error(got, want) <= 1e-5
