"""Wan transformers on disk: tensor names and configurations of the diffusers and of the original layout.

Names as in huggingface/diffusers `transformer_wan.py` and Wan-Video/Wan2.2 `wan/modules/model.py`. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rushes.errors import CheckpointError, did_you_mean
from rushes.models.base import Source
from rushes.models.configs import ExpertsConfig, WanConfig

Layout = Literal["diffusers", "wan"]

FLOAT32_PARTS = frozenset(
    {"patch_embed", "time_embed", "time_proj", "pooled_embed", "router", "router_bias", "head"}
    | {"modulation", "head_modulation", "norm_q", "norm_k", "cross_norm"}
)

# Our module -> the modules it is made of, in either layout.
_TOP = {
    "diffusers": {
        "text_embed.fc1": ["condition_embedder.text_embedder.linear_1"],
        "text_embed.fc2": ["condition_embedder.text_embedder.linear_2"],
        "time_embed.fc1": ["condition_embedder.time_embedder.linear_1"],
        "time_embed.fc2": ["condition_embedder.time_embedder.linear_2"],
        "time_proj": ["condition_embedder.time_proj"],
        "head": ["proj_out"],
    },
    "wan": {
        "text_embed.fc1": ["text_embedding.0"],
        "text_embed.fc2": ["text_embedding.2"],
        "time_embed.fc1": ["time_embedding.0"],
        "time_embed.fc2": ["time_embedding.2"],
        "time_proj": ["time_projection.1"],
        "head": ["head.head"],
    },
}
_BLOCK = {
    "diffusers": {
        "self_attn.qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
        "self_attn.out": ["attn1.to_out.0"],
        "cross_attn.q": ["attn2.to_q"],
        "cross_attn.kv": ["attn2.to_k", "attn2.to_v"],
        "cross_attn.out": ["attn2.to_out.0"],
        "cross_norm": ["norm2"],
    },
    "wan": {
        "self_attn.qkv": ["self_attn.q", "self_attn.k", "self_attn.v"],
        "self_attn.out": ["self_attn.o"],
        "cross_attn.q": ["cross_attn.q"],
        "cross_attn.kv": ["cross_attn.k", "cross_attn.v"],
        "cross_attn.out": ["cross_attn.o"],
        "cross_norm": ["norm3"],
    },
}
_ATTENTIONS = {"diffusers": ("attn1", "attn2"), "wan": ("self_attn", "cross_attn")}
_FFN = {"diffusers": ("ffn.net.0.proj", "ffn.net.2"), "wan": ("ffn.0", "ffn.2")}
_MODULATION = {"diffusers": "scale_shift_table", "wan": "modulation"}
_HEAD_MODULATION = {"diffusers": "scale_shift_table", "wan": "head.modulation"}


def keep_float32(name: str) -> bool:
    """Whether our parameter `name` stays float32 in a model of lower precision.

    Example:
        >>> keep_float32("blocks.3.modulation"), keep_float32("blocks.3.self_attn.qkv.weight")
        (True, False)
    """
    return not FLOAT32_PARTS.isdisjoint(name.split("."))


def sources(config: WanConfig, layout: Layout) -> dict[str, Source]:
    """From which checkpoint tensors each parameter of `Wan(config)` is made."""
    volume = config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
    found = {
        "patch_embed.weight": Source(
            names=("patch_embedding.weight",), reshape=(config.dim, config.in_channels * volume)
        ),
        "patch_embed.bias": Source(names=("patch_embedding.bias",)),
        "head_modulation": Source(names=(_HEAD_MODULATION[layout],), reshape=(2, config.dim)),
    }
    found.update(_affine(_TOP[layout]))
    if config.pooled_dim:
        found.update(_affine({name: [name] for name in ("pooled_embed.fc1", "pooled_embed.fc2")}))
    for layer in range(config.num_layers):
        found.update(_block_sources(config, layout, layer))
    return found


def _affine(modules: Mapping[str, Iterable[str]], prefix: str = "") -> Iterator[tuple[str, Source]]:
    for ours, theirs in modules.items():
        for kind in ("weight", "bias"):
            names = tuple(f"{prefix}{name}.{kind}" for name in theirs)
            yield f"{prefix}{ours}.{kind}", Source(names=names)


def _block_sources(config: WanConfig, layout: Layout, layer: int) -> dict[str, Source]:
    prefix = f"blocks.{layer}."
    found = dict(_affine(_BLOCK[layout], prefix))
    for ours, theirs in zip(("self_attn", "cross_attn"), _ATTENTIONS[layout], strict=True):
        for norm in ("norm_q", "norm_k"):
            found[f"{prefix}{ours}.{norm}.weight"] = Source(names=(f"{prefix}{theirs}.{norm}.weight",))
    found[f"{prefix}modulation"] = Source(names=(prefix + _MODULATION[layout],), reshape=(6, config.dim))
    if config.experts is None or layer < config.first_expert_layer:
        up, down = _FFN[layout]
        found.update(_affine({"ffn.up": [up], "ffn.down": [down]}, prefix))
    else:
        names = [f"{prefix}ffn.{name}" for name in _expert_names(config.experts)]
        found.update({name: Source(names=(name,)) for name in names})
    return found


def _expert_names(experts: ExpertsConfig) -> tuple[str, ...]:
    routed = ("router.weight", "router_bias", "experts_up", "experts_down")
    return (*routed, "shared_up", "shared_down") if experts.shared_dim else routed


def config_from_dict(raw: Mapping[str, Any], layout: Layout) -> WanConfig:
    """Read a transformer's config.json.

    Raises:
        CheckpointError: of another model, of image-to-video, or with an option that no public Wan uses.
    """
    return _from_diffusers(raw) if layout == "diffusers" else _from_wan(raw)


def _from_diffusers(raw: Mapping[str, Any]) -> WanConfig:
    _require(raw, "_class_name", ["WanTransformer3DModel"])
    in_channels = _integer(raw, "in_channels")
    out_channels = raw.get("out_channels") or in_channels
    if raw.get("image_dim") or raw.get("added_kv_proj_dim") or in_channels != out_channels:
        raise _image_to_video()
    _require(raw, "cross_attn_norm", [True], default=True)
    _require(raw, "qk_norm", ["rms_norm_across_heads"], default="rms_norm_across_heads")
    return WanConfig(
        num_layers=_integer(raw, "num_layers"),
        num_attention_heads=_integer(raw, "num_attention_heads"),
        attention_head_dim=_integer(raw, "attention_head_dim"),
        in_channels=in_channels,
        out_channels=out_channels,
        ffn_dim=_integer(raw, "ffn_dim"),
        experts=_experts(raw),
        **_optional(raw, "rope_max_seq_len", "first_expert_layer", "pooled_dim"),
    )


def _from_wan(raw: Mapping[str, Any]) -> WanConfig:
    _require(raw, "_class_name", ["WanModel"], default="WanModel")
    in_dim, out_dim = _integer(raw, "in_dim"), _integer(raw, "out_dim")
    if raw.get("model_type") == "i2v" or in_dim != out_dim:
        raise _image_to_video()
    _require(raw, "model_type", ["t2v", "ti2v"])
    _require(raw, "cross_attn_norm", [True], default=True)
    _require(raw, "qk_norm", [True], default=True)
    dim, heads = _integer(raw, "dim"), _integer(raw, "num_heads")
    if dim % heads:
        raise CheckpointError(f"transformer config: dim is {dim}; needs a multiple of num_heads {heads}")
    return WanConfig(
        num_layers=_integer(raw, "num_layers"),
        num_attention_heads=heads,
        attention_head_dim=dim // heads,
        in_channels=in_dim,
        out_channels=out_dim,
        ffn_dim=_integer(raw, "ffn_dim"),
        **_optional(raw),
    )


def _optional(raw: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The fields that both layouts may leave to `WanConfig`'s defaults, and those of `names`."""
    found = {name: raw[name] for name in ("text_dim", "text_len", "freq_dim", "eps", *names) if name in raw}
    if "patch_size" in raw:
        found["patch_size"] = tuple(raw["patch_size"])
        if len(found["patch_size"]) != 3:
            raise CheckpointError(
                f"transformer config: patch_size is {raw['patch_size']}; needs three numbers"
            )
    return found


def _experts(raw: Mapping[str, Any]) -> ExpertsConfig | None:
    experts = raw.get("experts")
    if not experts:
        return None
    known = {"num_experts", "top_k", "expert_dim", "shared_dim"}
    for name in [*(experts.keys() - known), *(known - {"shared_dim"} - experts.keys())]:
        fault = "is missing" if name in known else f"is unknown{did_you_mean(name, known)}"
        raise CheckpointError(f"transformer config: experts.{name} {fault}")
    return ExpertsConfig(**experts)


def _image_to_video() -> CheckpointError:
    return CheckpointError("this is an image-to-video transformer; image-to-video is not supported yet")


def _require(raw: Mapping[str, Any], key: str, choices: list[Any], default: Any = None) -> None:
    value = raw.get(key, default)
    if value not in choices:
        supported = " or ".join(map(repr, choices))
        raise CheckpointError(f"transformer config: {key} is {value!r}; supported: {supported}")


def _integer(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if not isinstance(value, int):
        raise CheckpointError(f"transformer config: {key} is {value!r}; needs int")
    return value
