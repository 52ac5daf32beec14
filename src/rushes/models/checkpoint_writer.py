"""Tiny random checkpoints in the true layouts, written from the committed name lists and nothing else."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rushes.errors import OutputError, UnknownName
from rushes.models.checkpoint import Layout
from rushes.models.name_lists import expand
from rushes.models.tiny_tokenizer import write_tokenizer
from rushes.models.wan_vae import WAN21_VAE, WAN22_VAE

NUM_HEADS = 2
TRANSFORMER = {"dim": 48, "ffn": 96, "text": 32, "freq": 32, "layers": 2}
UMT5 = {"vocab": 512, "dim": 32, "inner": 32, "ffn": 64, "buckets": 32, "heads": 2, "layers": 2}
VAE = {"vae21": {"base": 8, "z": 16}, "vae22": {"base": 8, "dec": 12, "z": 48}}
DIFFUSERS_VERSION = "0.35.0.dev0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A model that a tiny checkpoint imitates.

    Attributes:
        experts: the original layout's folder of each network, high noise first; "" is the root.
        flow_shift: what the published diffusers folder says, the trap of A14B included.
    """

    channels: int
    model_type: str
    experts: tuple[str, ...]
    vae: str
    vae_file: str
    flow_shift: float
    boundary: float | None


KINDS: Mapping[str, Kind] = {
    "a14b": Kind(
        channels=16,
        model_type="t2v",
        experts=("high_noise_model", "low_noise_model"),
        vae="vae21",
        vae_file="Wan2.1_VAE.pth",
        flow_shift=3.0,
        boundary=0.875,
    ),
    "ti2v-5b": Kind(
        channels=48,
        model_type="ti2v",
        experts=("",),
        vae="vae22",
        vae_file="Wan2.2_VAE.pth",
        flow_shift=5.0,
        boundary=None,
    ),
}


def make_checkpoint(kind: str, folder: Path, layout: Layout = "diffusers", *, seed: int = 0) -> Path:
    """Write a complete tiny checkpoint with random weights; one seed gives equal weights in both layouts.

    Args:
        kind: "a14b" (two experts, 16 channels) or "ti2v-5b" (48 channels).
        folder: a new or empty folder; it appears only when everything is written.
        layout: "diffusers", or "wan" for the original repository's.

    Raises:
        UnknownName: no such kind.
        OutputError: the folder is not empty or cannot be written.

    Example:
        >>> import tempfile
        >>> folder = make_checkpoint("ti2v-5b", Path(tempfile.mkdtemp()) / "tiny")
        >>> sorted(path.name for path in folder.iterdir())
        ['model_index.json', 'scheduler', 'text_encoder', 'tokenizer', 'transformer', 'vae']
    """
    if kind not in KINDS:
        raise UnknownName("tiny", kind, KINDS)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: exists and is not an empty folder; give a new one")
    write = _write_diffusers if layout == "diffusers" else _write_wan
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            whole = Path(scratch) / folder.name
            whole.mkdir()
            write(KINDS[kind], whole, seed)
            if folder.exists():
                folder.rmdir()
            shutil.move(whole, folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return folder


def _write_diffusers(kind: Kind, folder: Path, seed: int) -> None:
    sizes = _transformer_sizes(kind)
    for number in range(len(kind.experts)):
        path = folder / ("transformer" if number == 0 else "transformer_2")
        _write_json(path / "config.json", _diffusers_transformer(sizes))
        _write_shards(path, "diffusion_pytorch_model", _draw_all("dit_diffusers", sizes, seed + 10 + number))
    vae = VAE[kind.vae]
    _write_json(folder / "vae" / "config.json", _diffusers_vae(kind))
    tensors = _draw_all(f"{kind.vae}_diffusers", vae, seed + 20)
    save_file(tensors, folder / "vae" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    _write_json(folder / "text_encoder" / "config.json", _umt5_config())
    _write_shards(folder / "text_encoder", "model", _umt5("umt5_transformers", seed))
    write_tokenizer(folder / "tokenizer")
    _write_json(folder / "scheduler" / "scheduler_config.json", _scheduler(kind))
    _write_json(folder / "model_index.json", _model_index(kind))


def _write_wan(kind: Kind, folder: Path, seed: int) -> None:
    sizes = _transformer_sizes(kind)
    for number, name in enumerate(kind.experts):
        _write_json(folder / name / "config.json", _wan_transformer(kind, sizes))
        tensors = _draw_all("dit_wan", sizes, seed + 10 + number)
        _write_shards(folder / name, "diffusion_pytorch_model", tensors)
    torch.save(_draw_all(f"{kind.vae}_wan", VAE[kind.vae], seed + 20), folder / kind.vae_file)
    torch.save(_umt5("umt5_wan", seed), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    write_tokenizer(folder / "google" / "umt5-xxl")


def _transformer_sizes(kind: Kind) -> dict[str, int]:
    return {**TRANSFORMER, "in": kind.channels, "out": kind.channels}


def _umt5(list_name: str, seed: int) -> dict[str, Tensor]:
    return {name: tensor.bfloat16() for name, tensor in _draw_all(list_name, UMT5, seed + 30).items()}


def _draw_all(list_name: str, sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """Random tensors in the list's order, so that both layouts of a network draw the same."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _draw(name, shape, generator) for name, shape in expand(list_name, sizes).items()}


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Scales that keep activations near one: norms about 1, biases small, weights by fan-in."""
    noise = torch.randn(shape, generator=generator)
    parts = name.split(".")
    if parts[-1] == "gamma" or (parts[-1] == "weight" and "norm" in parts[-2]):
        return 1 + 0.1 * noise
    if len(shape) == 1:
        return 0.1 * noise
    return noise / math.sqrt(math.prod(shape[1:]))


def _write_shards(folder: Path, stem: str, tensors: Mapping[str, Tensor]) -> None:
    """Two safetensors shards and their index, as large models are published."""
    names = list(tensors)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    weight_map: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for number, half in enumerate(halves, start=1):
        shard = f"{stem}-{number:05d}-of-{len(halves):05d}.safetensors"
        save_file({name: tensors[name] for name in half}, folder / shard, {"format": "pt"})
        weight_map.update(dict.fromkeys(half, shard))
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / f"{stem}.safetensors.index.json", index)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + os.linesep, encoding="utf-8")


def _diffusers_transformer(sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "_class_name": "WanTransformer3DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "added_kv_proj_dim": None,
        "attention_head_dim": sizes["dim"] // NUM_HEADS,
        "cross_attn_norm": True,
        "eps": 1e-06,
        "ffn_dim": sizes["ffn"],
        "freq_dim": sizes["freq"],
        "image_dim": None,
        "in_channels": sizes["in"],
        "num_attention_heads": NUM_HEADS,
        "num_layers": sizes["layers"],
        "out_channels": sizes["out"],
        "patch_size": [1, 2, 2],
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": sizes["text"],
    }


def _wan_transformer(kind: Kind, sizes: Mapping[str, int]) -> dict[str, Any]:
    """As published, plus text_dim, which published folders leave at its default of 4096."""
    return {
        "_class_name": "WanModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "dim": sizes["dim"],
        "eps": 1e-06,
        "ffn_dim": sizes["ffn"],
        "freq_dim": sizes["freq"],
        "in_dim": sizes["in"],
        "model_type": kind.model_type,
        "num_heads": NUM_HEADS,
        "num_layers": sizes["layers"],
        "out_dim": sizes["out"],
        "text_dim": sizes["text"],
        "text_len": 512,
    }


def _diffusers_vae(kind: Kind) -> dict[str, Any]:
    config = {"vae21": WAN21_VAE, "vae22": WAN22_VAE}[kind.vae]
    sizes = VAE[kind.vae]
    pixels = 3 * config.patch_size**2
    return {
        "_class_name": "AutoencoderKLWan",
        "_diffusers_version": DIFFUSERS_VERSION,
        "attn_scales": [],
        "base_dim": sizes["base"],
        "decoder_base_dim": sizes.get("dec"),
        "dim_mult": [1, 2, 4, 4],
        "dropout": 0.0,
        "in_channels": pixels,
        "is_residual": config.is_residual,
        "latents_mean": config.latents_mean,
        "latents_std": config.latents_std,
        "num_res_blocks": 2,
        "out_channels": pixels,
        "patch_size": config.patch_size if config.patch_size > 1 else None,
        "scale_factor_spatial": config.spatial_stride,
        "scale_factor_temporal": config.temporal_stride,
        "temperal_downsample": [False, True, True],
        "z_dim": sizes["z"],
    }


def _umt5_config() -> dict[str, Any]:
    return {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "d_ff": UMT5["ffn"],
        "d_kv": UMT5["inner"] // UMT5["heads"],
        "d_model": UMT5["dim"],
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "dtype": "bfloat16",
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "num_heads": UMT5["heads"],
        "num_layers": UMT5["layers"],
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": UMT5["buckets"],
        "tie_word_embeddings": False,
        "vocab_size": UMT5["vocab"],
    }


def _scheduler(kind: Kind) -> dict[str, Any]:
    return {
        "_class_name": "UniPCMultistepScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
        "final_sigmas_type": "zero",
        "flow_shift": kind.flow_shift,
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "predict_x0": True,
        "solver_order": 2,
        "solver_type": "bh2",
        "lower_order_final": True,
        "use_flow_sigmas": True,
    }


def _model_index(kind: Kind) -> dict[str, Any]:
    transformer = ["diffusers", "WanTransformer3DModel"]
    return {
        "_class_name": "WanPipeline",
        "_diffusers_version": DIFFUSERS_VERSION,
        "boundary_ratio": kind.boundary,
        "expand_timesteps": kind.channels == 48,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": transformer,
        "transformer_2": transformer if len(kind.experts) == 2 else [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
