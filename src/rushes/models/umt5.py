"""The UMT5 encoder of Wan: transformers' module, filled from either layout.

Source: Wan-Video/Wan2.2 `wan/modules/t5.py` (names) and transformers `UMT5EncoderModel` (arithmetic).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from rushes.errors import CheckpointError
from rushes.models.base import Source
from rushes.models.headers import TensorHeader

EMBEDDING = "shared.weight"
TIED_EMBEDDING = "encoder.embed_tokens.weight"

# transformers' name inside a block -> the original repository's
BLOCK_NAMES = {
    "layer.0.layer_norm": "norm1",
    "layer.0.SelfAttention.q": "attn.q",
    "layer.0.SelfAttention.k": "attn.k",
    "layer.0.SelfAttention.v": "attn.v",
    "layer.0.SelfAttention.o": "attn.o",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.1.layer_norm": "norm2",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UMT5Config:
    """Shape of the encoder; the defaults are UMT5-XXL. Field names are transformers'."""

    vocab_size: int = 256384
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6


def build_umt5(config: UMT5Config) -> nn.Module:
    """transformers' encoder of that shape, on meta. Importing it takes seconds, so only this call does."""
    from transformers.models.umt5.configuration_umt5 import UMT5Config as TheirConfig
    from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel

    fields = {name: getattr(config, name) for name in UMT5Config.__slots__}
    with torch.device("meta"):
        model: nn.Module = UMT5EncoderModel(TheirConfig(**fields, feed_forward_proj="gated-gelu"))
    return model


def tie_embedding(model: nn.Module) -> None:
    """Let both names of the token embedding be one parameter again, after an assigning load."""
    model.get_submodule("encoder.embed_tokens").weight = model.get_submodule("shared").weight


def sources(config: UMT5Config, layout: Literal["diffusers", "wan"]) -> dict[str, Source]:
    """From which checkpoint tensor each parameter of `build_umt5(config)` is made."""
    is_wan = layout == "wan"
    table = {
        EMBEDDING: "token_embedding.weight" if is_wan else EMBEDDING,
        "encoder.final_layer_norm.weight": "norm.weight" if is_wan else "encoder.final_layer_norm.weight",
    }
    for layer in range(config.num_layers):
        for theirs, original in BLOCK_NAMES.items():
            name = f"encoder.block.{layer}.{theirs}.weight"
            table[name] = f"blocks.{layer}.{original}.weight" if is_wan else name
    return {ours: Source(names=(stored,)) for ours, stored in table.items()}


def stored_embedding(names: Collection[str]) -> str:
    """Under which of its two names a transformers checkpoint stores the embedding (some store both)."""
    return TIED_EMBEDDING if EMBEDDING not in names and TIED_EMBEDDING in names else EMBEDDING


def config_from_dict(raw: Mapping[str, Any]) -> UMT5Config:
    """Read a `text_encoder/config.json`. Raises `CheckpointError` for another encoder."""
    if raw.get("model_type") != "umt5" or raw.get("feed_forward_proj", "gated-gelu") != "gated-gelu":
        raise CheckpointError(
            f"text_encoder: model_type {raw.get('model_type')!r} with feed_forward_proj"
            f" {raw.get('feed_forward_proj')!r} is not supported; Wan's is 'umt5' with 'gated-gelu'"
        )
    return UMT5Config(**{name: raw[name] for name in UMT5Config.__slots__ if name in raw})


def config_from_headers(headers: Mapping[str, TensorHeader]) -> UMT5Config:
    """The original layout has no config: read the shape from its tensors.

    Raises:
        CheckpointError: a tensor that tells a size is missing.
    """
    try:
        vocab_size, d_model = headers["token_embedding.weight"].shape
        inner, _ = headers["blocks.0.attn.q.weight"].shape
        d_ff, _ = headers["blocks.0.ffn.fc1.weight"].shape
        buckets, heads = headers["blocks.0.pos_embedding.embedding.weight"].shape
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"not a UMT5 encoder of the original layout: {error} is missing or odd"
        ) from error
    layers = {name.split(".")[1] for name in headers if name.startswith("blocks.")}
    return UMT5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=inner // heads,
        d_ff=d_ff,
        num_layers=len(layers),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
    )
