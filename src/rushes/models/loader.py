"""A checkpoint's parts as models: build on meta, load strictly, on the device asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from rushes.errors import CheckpointError
from rushes.models import mini_lm, umt5, wan, wan_vae
from rushes.models.base import Source
from rushes.models.checkpoint import Checkpoint, Expert, Part, open_checkpoint
from rushes.models.configs import WanVAEConfig
from rushes.models.expert_pair import (
    ArrivingExperts,
    ExpertPair,
    OneExpert,
    ResidentExperts,
    SwappedExperts,
    both_fit,
)
from rushes.models.headers import read_json
from rushes.models.lexicon import LEXICON, read_lexicon
from rushes.models.text import MiniLMTextEncoder, TextEncoder, UMT5TextEncoder, load_tokenizer
from rushes.models.weights import load_weights, open_store

__all__ = [
    "Checkpoint",
    "load_experts",
    "load_text_encoder",
    "load_transformer",
    "load_vae",
    "load_weights",
    "open_checkpoint",
]

CPU = torch.device("cpu")

Change = Callable[[wan.Wan, Expert], wan.Wan]


def _unchanged(model: wan.Wan, expert: Expert) -> wan.Wan:
    return model


def load_transformer(
    checkpoint: Checkpoint,
    expert: Expert,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    on_allocated: Callable[[], None] = lambda: None,
) -> wan.Wan:
    """One network in `dtype` with its float32 islands; "high" is also the only one of a one-expert model.

    Args:
        on_allocated: see `rushes.models.weights.load_weights`.

    Raises:
        CheckpointError: the part is missing, incomplete, damaged or of another shape than its config says.
    """
    part = checkpoint.part("transformer" if expert == "high" else "transformer_low")
    config = wan.config_from_dict(read_json(part.path / "config.json"), checkpoint.layout)
    with torch.device("meta"):
        model = wan.Wan(config)
    table = wan.sources(config, checkpoint.layout)
    return load_weights(
        model, part.weights.present, table, wan.keep_float32, dtype, device, on_allocated=on_allocated
    )


def load_experts(
    checkpoint: Checkpoint,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    resident: bool | None = None,
    reserved: int = 0,
    change: Change | None = None,
    in_background: bool | None = None,
) -> ExpertPair:
    """The network of a one-expert model, or both noise experts.

    Args:
        change: what is done to each network as soon as it is loaded, before the next one is.
        resident: keep both experts on the device; None decides by `both_fit` once the first is there.
        reserved: bytes of parts that are still to come to the device.
        in_background: return when the high-noise expert is there, with the low-noise one on its way, if both
            stay; None does so on a GPU.
    """
    place, change = torch.device(device), change or _unchanged
    high = change(load_transformer(checkpoint, "high", place, dtype), "high")
    boundary = checkpoint.boundary.value
    if boundary is None:
        return OneExpert(high)
    if resident if resident is not None else both_fit(high, place, reserved=reserved):

        def load_low(on_allocated: Callable[[], None] = lambda: None) -> wan.Wan:
            low = load_transformer(checkpoint, "low", place, dtype, on_allocated=on_allocated)
            low = change(low, "low")
            if place.type == "cuda":  # other threads read it on streams of their own
                torch.cuda.current_stream(place).synchronize()
            return low

        checkpoint.part("transformer_low")  # one that is not there is missed at once
        if in_background if in_background is not None else place.type == "cuda":
            return ArrivingExperts(high, load_low, boundary=boundary)
        return ResidentExperts(high, load_low(), boundary=boundary)
    low = change(load_transformer(checkpoint, "low", CPU, dtype), "low")
    return SwappedExperts(high, low, boundary=boundary)


def load_vae(checkpoint: Checkpoint, device: torch.device | str, dtype: torch.dtype) -> wan_vae.WanVAE:
    """The VAE. Raises `CheckpointError` like `load_transformer`."""
    part = checkpoint.part("vae")
    config = _vae_config(checkpoint, part)
    with torch.device("meta"):
        model = wan_vae.WanVAE(config)
    table = wan_vae.sources(config, checkpoint.layout)
    return load_weights(model, part.weights.present, table, wan_vae.keep_float32, dtype, device)


def _vae_config(checkpoint: Checkpoint, part: Part) -> WanVAEConfig:
    """The original layout has no VAE config: the published one, at the widths that the file has."""
    if checkpoint.layout == "diffusers":
        return wan_vae.config_from_dict(read_json(part.path / "config.json"), checkpoint.layout)
    config = wan_vae.WAN22_VAE if part.path.name.startswith("Wan2.2") else wan_vae.WAN21_VAE
    with open_store(part.weights.present, CPU) as store:
        try:
            encoder, decoder = (
                store.headers[f"{side}.conv1.weight"].shape for side in ("encoder", "decoder")
            )
        except KeyError as error:
            raise CheckpointError(f"{part.path.name}: not a Wan VAE: tensor {error} is missing") from error
    return replace(config, base_dim=encoder[0], decoder_base_dim=decoder[0] // config.dim_mult[-1])


def load_text_encoder(
    checkpoint: Checkpoint, device: torch.device | str, dtype: torch.dtype, *, streamed: bool = False
) -> TextEncoder:
    """The text encoder and its tokenizer: UMT5, or the toy's MiniLM.

    Args:
        streamed: UMT5's weights stay in host memory (`rushes.models.streamed`).

    Raises:
        CheckpointError: one of the two is missing (the message says how to go on without) or damaged.
    """
    part, tokenizer = checkpoint.part("text_encoder"), checkpoint.part("tokenizer")
    if checkpoint.pipeline == "toy":
        return _load_mini_lm(part, tokenizer, device, dtype)
    ready = load_tokenizer(tokenizer.path)
    encoder = UMT5TextEncoder(_load_umt5(checkpoint, part, CPU if streamed else device, dtype), ready)
    if streamed:
        encoder.stream(torch.device(device))
    return encoder


def _load_mini_lm(
    part: Part, tokenizer: Part, device: torch.device | str, dtype: torch.dtype
) -> MiniLMTextEncoder:
    config = mini_lm.config_from_dict(read_json(part.path / "config.json"))
    ready = mini_lm.MiniLMTokenizer(tokenizer.path / mini_lm.TOKENIZER, config.text_len)
    with torch.device("meta"):
        model = mini_lm.MiniLM(config)
    table = mini_lm.sources(config)
    weights = load_weights(model, part.weights.present, table, _nothing_float32, dtype, device)
    lexicon = tokenizer.path / LEXICON
    return MiniLMTextEncoder(weights, ready, read_lexicon(lexicon) if lexicon.is_file() else None)


def _load_umt5(
    checkpoint: Checkpoint, part: Part, device: torch.device | str, dtype: torch.dtype
) -> nn.Module:
    files = part.weights.present
    with open_store(files, CPU) as store:
        headers = store.headers
    if checkpoint.layout == "wan":
        config = umt5.config_from_headers(headers)
    else:
        config = umt5.config_from_dict(read_json(part.path / "config.json"))
    table: dict[str, Source] = umt5.sources(config, checkpoint.layout)
    if checkpoint.layout == "diffusers":
        table[umt5.EMBEDDING] = Source(names=(umt5.stored_embedding(headers),))
    model = umt5.build_umt5(config)
    load_weights(model, files, table, _nothing_float32, dtype, device, ignore=(umt5.TIED_EMBEDDING,))
    umt5.tie_embedding(model)
    return model


def _nothing_float32(name: str) -> bool:
    """UMT5 and MiniLM take their norms' sums in float32 themselves; the reference casts all their weights."""
    return False
