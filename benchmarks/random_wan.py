"""Wan models of true shapes with random weights, drawn on the device itself: no files.

Every weight is a bfloat16 number, so a float32 model and a bfloat16 one of the same seed have equal weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor, nn

from rushes.models import umt5, wan, wan_vae
from rushes.models.configs import WanConfig, WanVAEConfig
from rushes.models.expert_pair import ExpertPair, ResidentExperts
from rushes.models.text import TextEncoder, UMT5TextEncoder, load_tokenizer
from rushes.models.tiny_tokenizer import write_tokenizer
from rushes.models.umt5 import UMT5Config
from rushes.passes.base import ClipShape
from rushes.types import VideoSpec

M = TypeVar("M", bound=nn.Module)

STD = 0.02
"""Of matrices, biases and modulation; norms are 1. The VAE's matrices take 1 / sqrt(fan in)."""

A14B = WanConfig(
    num_layers=40,
    num_attention_heads=40,
    attention_head_dim=128,
    in_channels=16,
    out_channels=16,
    ffn_dim=13824,
)
TI2V_5B = WanConfig(
    num_layers=30,
    num_attention_heads=24,
    attention_head_dim=128,
    in_channels=48,
    out_channels=48,
    ffn_dim=14336,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What a run measures.

    Attributes:
        transformers: by model, "a14b" and "ti2v-5b".
        short: latents (C, T, H, W) at which a float32 reference is made.
        full: latents of the model's own clip.
        video: the clip that is generated.
        text_len: tokens of a prompt.
    """

    transformers: Mapping[str, WanConfig]
    short: Mapping[str, tuple[int, ...]]
    full: Mapping[str, tuple[int, ...]]
    vae: WanVAEConfig
    umt5: UMT5Config
    video: VideoSpec
    text_len: int = 512


TRUE = Shapes(
    transformers={"a14b": A14B, "ti2v-5b": TI2V_5B},
    short={"a14b": (16, 3, 60, 104), "ti2v-5b": (48, 5, 44, 80)},
    full={"a14b": (16, 21, 60, 104), "ti2v-5b": (48, 31, 44, 80)},
    vae=wan_vae.WAN21_VAE,
    umt5=UMT5Config(),
    video=VideoSpec(width=832, height=480, num_frames=81, fps=16),
)

_SMALL = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96, "text_dim": 32}
TINY = Shapes(
    transformers={"a14b": replace(A14B, **_SMALL), "ti2v-5b": replace(TI2V_5B, **_SMALL)},
    short={"a14b": (16, 2, 4, 6), "ti2v-5b": (48, 2, 4, 4)},
    full={"a14b": (16, 3, 4, 6), "ti2v-5b": (48, 3, 4, 6)},
    vae=replace(wan_vae.WAN21_VAE, base_dim=8, num_res_blocks=1),
    umt5=UMT5Config(vocab_size=512, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
    video=VideoSpec(width=48, height=32, num_frames=5, fps=16),
    text_len=16,
)


def _nothing_float32(name: str) -> bool:
    return False


def fill(
    model: M,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    keep_float32: Callable[[str], bool] = _nothing_float32,
    std: float | None = STD,
) -> M:
    """Give a model that was built on meta its weights, as the loader would.

    Args:
        std: of matrices; None for 1 / sqrt(fan in).
    """
    generator = torch.Generator(device).manual_seed(seed)
    state = {
        name: _draw(name, parameter.shape, generator, std).to(torch.float32 if keep_float32(name) else dtype)
        for name, parameter in model.named_parameters()
    }
    # strict=False: tied parameters have a second name.
    model.load_state_dict(state, assign=True, strict=False)
    return model.eval().requires_grad_(False)


def _draw(name: str, shape: torch.Size, generator: torch.Generator, std: float | None) -> Tensor:
    values = torch.empty(shape, dtype=torch.bfloat16, device=generator.device)
    if len(shape) == 1:
        return values.fill_(1) if name.endswith("weight") else values.normal_(0, STD, generator=generator)
    fan_in = shape.numel() // shape[0]
    return values.normal_(0, fan_in**-0.5 if std is None else std, generator=generator)


def random_wan(config: WanConfig, seed: int, device: torch.device, dtype: torch.dtype) -> wan.Wan:
    """A transformer whose float32 islands stay float32."""
    with torch.device("meta"):
        model = wan.Wan(config)
    return fill(model, seed=seed, device=device, dtype=dtype, keep_float32=wan.keep_float32)


def with_backend(model: wan.Wan, attention_backend: str) -> wan.Wan:
    """The same transformer, weights shared, with another attention kernel."""
    with torch.device("meta"):
        other = wan.Wan(model.config, attention_backend=attention_backend)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval().requires_grad_(False)


def diffusers_twin(model: wan.Wan) -> WanTransformer3DModel:
    """diffusers' transformer with the weights of ours, in float32."""
    twin = _on_meta(model.config)
    state = _their_state(model, twin)
    # Copies, also of what is float32 in ours.
    copies = {name: torch.empty_like(piece, dtype=torch.float32) for name, piece in state.items()}
    twin.load_state_dict({name: copies[name].copy_(piece) for name, piece in state.items()}, assign=True)
    return _ready(twin, model)


def diffusers_sharing(model: wan.Wan, dtype: torch.dtype) -> WanTransformer3DModel:
    """diffusers' transformer on the weights of ours, in the same memory but for what diffusers keeps in
    float32 and ours does not."""
    twin = _on_meta(model.config)
    twin.load_state_dict(_their_state(model, twin), assign=True)
    kept = set(twin._keep_in_fp32_modules)
    for name, parameter in twin.named_parameters():
        parameter.data = parameter.data.to(dtype if kept.isdisjoint(name.split(".")) else torch.float32)
    return _ready(twin, model)


def beside(twin: WanTransformer3DModel, model: wan.Wan) -> WanTransformer3DModel:
    """Another module of the same weights, as a second noise expert."""
    other = _on_meta(model.config)
    other.load_state_dict(twin.state_dict(), assign=True)
    return _ready(other, model)


def _on_meta(config: WanConfig) -> WanTransformer3DModel:
    same = ("num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels")
    same += ("ffn_dim", "text_dim", "freq_dim", "patch_size", "eps", "rope_max_seq_len")
    with torch.device("meta"):
        return WanTransformer3DModel(**{name: getattr(config, name) for name in same})


def _ready(twin: WanTransformer3DModel, model: wan.Wan) -> WanTransformer3DModel:
    # Its tables are no part of the state.
    config = model.config
    rope = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
    twin.rope = rope.to(model.head.weight.device)
    return twin.eval().requires_grad_(False)


def _their_state(model: wan.Wan, twin: WanTransformer3DModel) -> dict[str, Tensor]:
    """Our weights by their names and in their shapes, as views."""
    shapes = {name: parameter.shape for name, parameter in twin.named_parameters()}
    ours, state = model.state_dict(), {}
    for name, source in wan.sources(model.config, "diffusers").items():
        rows = [shapes[stored][0] for stored in source.names]
        # A source of one tensor may have it in another shape, whose first dimension is not ours.
        pieces = ours[name].split(rows) if len(rows) > 1 else (ours[name].view(shapes[source.names[0]]),)
        state.update(zip(source.names, pieces, strict=True))
    return state


def cast_twin(twin: WanTransformer3DModel, dtype: torch.dtype) -> WanTransformer3DModel:
    """Cast in place what `from_pretrained(torch_dtype=dtype)` does: all but `_keep_in_fp32_modules`."""
    kept = set(twin._keep_in_fp32_modules)
    for name, parameter in twin.named_parameters():
        if kept.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    return twin


class RandomParts:
    """Implements `rushes.pipelines.base.Parts`: both noise experts, UMT5 and the VAE, all on the device.

    Args:
        folder: a new one, for the tokenizer; the only part that is small.
    """

    identity = encoder_revision = "random"
    loras = ()

    def __init__(
        self, shapes: Shapes, device: torch.device, dtype: torch.dtype, boundary: float, folder: Path
    ) -> None:
        self.transformer_config = shapes.transformers["a14b"]
        self.vae_config = shapes.vae
        high, low = (random_wan(self.transformer_config, seed, device, dtype) for seed in (1, 2))
        self._experts = ResidentExperts(high, low, boundary=boundary)
        self._vae = random_vae(shapes.vae, 3, device, dtype)
        encoder = fill(umt5.build_umt5(shapes.umt5), seed=4, device=device, dtype=dtype)
        umt5.tie_embedding(encoder)
        write_tokenizer(folder)
        self._text_encoder = UMT5TextEncoder(encoder, load_tokenizer(folder), shapes.text_len)

    def experts(self, lora: str | None = None) -> ExpertPair:
        """See `Parts`."""
        return self._experts

    def vae(self) -> wan_vae.WanVAE:
        """See `Parts`."""
        return self._vae

    def text_encoder(self) -> TextEncoder:
        """See `Parts`."""
        return self._text_encoder

    def expect(self, shapes: Sequence[ClipShape]) -> None:
        """See `Parts`. No pass changes these networks."""


def random_vae(config: WanVAEConfig, seed: int, device: torch.device, dtype: torch.dtype) -> wan_vae.WanVAE:
    """A VAE of that shape."""
    with torch.device("meta"):
        vae = wan_vae.WanVAE(config)
    return fill(vae, seed=seed, device=device, dtype=dtype, std=None)
