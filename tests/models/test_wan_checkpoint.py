"""Renames of both layouts, checked against diffusers' converter and model; and their configurations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from torch import Tensor

from rushes.errors import CheckpointError
from rushes.models.configs import ExpertsConfig, WanConfig
from rushes.models.wan import Wan
from rushes.models.wan_checkpoint import config_from_dict, sources

TINY = WanConfig(
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    ffn_dim=32,
    text_dim=8,
)
EXPERTS = ExpertsConfig(num_experts=4, top_k=2, expert_dim=8, shared_dim=16)

# config.json of Wan-AI/Wan2.2-T2V-A14B (high_noise_model) and of its diffusers conversion.
WAN_A14B: dict[str, Any] = {
    "_class_name": "WanModel",
    "dim": 5120,
    "eps": 1e-06,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "in_dim": 16,
    "model_type": "t2v",
    "num_heads": 40,
    "num_layers": 40,
    "out_dim": 16,
    "text_len": 512,
}
DIFFUSERS_A14B: dict[str, Any] = {
    "_class_name": "WanTransformer3DModel",
    "added_kv_proj_dim": None,
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "image_dim": None,
    "in_channels": 16,
    "num_attention_heads": 40,
    "num_layers": 40,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 4096,
}
A14B = WanConfig(
    num_layers=40,
    num_attention_heads=40,
    attention_head_dim=128,
    in_channels=16,
    out_channels=16,
    ffn_dim=13824,
)


def build(
    config: WanConfig, layout: Literal["diffusers", "wan"], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    built = {}
    for name, source in sources(config, layout).items():
        joined = torch.cat([tensors[part] for part in source.names])
        built[name] = joined.view(source.reshape) if source.reshape else joined
    return built


@pytest.mark.parametrize("config", [TINY, replace(TINY, experts=EXPERTS, first_expert_layer=1, pooled_dim=6)])
def test_every_parameter_has_a_source(config: WanConfig) -> None:
    assert sources(config, "diffusers").keys() == Wan(config).state_dict().keys()


def test_layouts_agree_through_diffusers_converter() -> None:
    """A checkpoint of original names, and what diffusers makes of it, give the same parameters of ours."""
    names = [name for source in sources(TINY, "wan").values() for name in source.names]
    original = {name: torch.randn(2, 24, 12, 1) for name in names}
    heads = {name: torch.randn(1, 6 if "blocks" in name else 2, 24) for name in names if "modulation" in name}
    original |= heads | {"patch_embedding.weight": torch.randn(24, 4, 1, 2, 2)}
    converted = convert_wan_transformer_to_diffusers(dict(original))
    ours, theirs = build(TINY, "wan", original), build(TINY, "diffusers", converted)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    model = WanTransformer3DModel(
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        ffn_dim=32,
        text_dim=8,
    )
    assert converted.keys() == model.state_dict().keys()


def test_public_a14b_in_both_layouts() -> None:
    assert config_from_dict(WAN_A14B, "wan") == A14B
    assert config_from_dict(DIFFUSERS_A14B, "diffusers") == A14B


def test_toy_fields_are_read_from_the_diffusers_layout() -> None:
    extra = {
        "text_dim": 384,
        "text_len": 64,
        "pooled_dim": 384,
        "first_expert_layer": 1,
        "experts": {"num_experts": 4, "top_k": 2, "expert_dim": 8, "shared_dim": 16},
    }
    config = config_from_dict(DIFFUSERS_A14B | extra, "diffusers")
    assert config == replace(
        A14B, text_dim=384, text_len=64, pooled_dim=384, first_expert_layer=1, experts=EXPERTS
    )


@pytest.mark.parametrize(
    ("layout", "changed"),
    [
        ("wan", WAN_A14B | {"model_type": "i2v", "in_dim": 36}),
        ("wan", WAN_A14B | {"in_dim": 36}),
        ("wan", WAN_A14B | {"model_type": "flf2v", "in_dim": 36}),
        ("diffusers", DIFFUSERS_A14B | {"in_channels": 36}),
        ("diffusers", DIFFUSERS_A14B | {"image_dim": 1280}),
    ],
)
def test_image_to_video_is_refused_by_name(
    layout: Literal["diffusers", "wan"], changed: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match="image-to-video is not supported yet"):
        config_from_dict(changed, layout)


@pytest.mark.parametrize(
    ("layout", "changed", "message"),
    [
        (
            "diffusers",
            DIFFUSERS_A14B | {"_class_name": "FluxTransformer2DModel"},
            "Flux.*WanTransformer3DModel",
        ),
        ("diffusers", DIFFUSERS_A14B | {"qk_norm": None}, "qk_norm is None"),
        ("diffusers", DIFFUSERS_A14B | {"patch_size": [2, 2]}, "patch_size"),
        ("diffusers", DIFFUSERS_A14B | {"num_layers": "40"}, "num_layers is '40'; needs int"),
        ("diffusers", DIFFUSERS_A14B | {"experts": {"num_expert": 4}}, "experts.*num_expert"),
        ("wan", WAN_A14B | {"model_type": "vace"}, "model_type is 'vace'"),
        ("wan", {k: v for k, v in WAN_A14B.items() if k != "dim"}, "dim is None; needs int"),
        ("wan", WAN_A14B | {"num_heads": 3}, "dim is 5120.*num_heads 3"),
        ("wan", {}, "in_dim is None"),
    ],
)
def test_what_no_public_wan_has_is_refused(
    layout: Literal["diffusers", "wan"], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        config_from_dict(changed, layout)
