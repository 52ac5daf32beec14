"""What the speed table measures, loaded once: our networks on every rung, and diffusers' of their weights."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from benchmarks.random_wan import (
    TINY,
    TRUE,
    diffusers_sharing,
    fill,
    random_vae,
    random_wan,
)
from benchmarks.speed_rungs import Rung, changed, rungs
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

from rushes.models import umt5, wan_vae
from rushes.models.configs import WanConfig, WanVAEConfig
from rushes.models.expert_pair import ExpertPair, OneExpert, ResidentExperts
from rushes.models.text import UMT5TextEncoder, load_tokenizer
from rushes.models.tiny_tokenizer import write_tokenizer
from rushes.models.umt5 import UMT5Config
from rushes.models.wan import Wan
from rushes.passes.base import ClipShape
from rushes.passes.plan import Plan
from rushes.pipelines.model import Model
from rushes.pipelines.rules import load_rules
from rushes.types import VideoSpec

BF16 = torch.bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A model at the shapes that are measured.

    Attributes:
        preset: of a few steps.
        short: latents (C, T, H, W) at which a float32 reference is affordable.
        clips: by name, what is generated.
        has_two: noise experts; one network stands for both.
    """

    rules: str
    preset: str
    transformer: WanConfig
    vae: WanVAEConfig
    short: tuple[int, ...]
    clips: Mapping[str, VideoSpec]
    has_two: bool

    def latents(self, clip: str) -> tuple[int, ...]:
        """(C, T, H, W) of a clip."""
        video, vae = self.clips[clip], self.vae
        return (
            self.transformer.in_channels,
            (video.num_frames - 1) // vae.temporal_stride + 1,
            video.height // vae.spatial_stride,
            video.width // vae.spatial_stride,
        )


A14B = Kind(
    rules="wan2.2-t2v-a14b",
    preset="distilled-4",
    transformer=TRUE.transformers["a14b"],
    vae=wan_vae.WAN21_VAE,
    short=TRUE.short["a14b"],
    clips={
        "480p": VideoSpec(width=832, height=480, num_frames=81, fps=16),
        "720p": VideoSpec(width=1280, height=720, num_frames=81, fps=16),
    },
    has_two=True,
)
TI2V_5B = Kind(
    rules="wan2.2-ti2v-5b",
    preset="fastwan-3",
    transformer=TRUE.transformers["ti2v-5b"],
    vae=wan_vae.WAN22_VAE,
    short=TRUE.short["ti2v-5b"],
    clips={"704p": VideoSpec(width=1280, height=704, num_frames=121, fps=24)},
    has_two=False,
)
TINY_A14B = replace(
    A14B,
    transformer=replace(TINY.transformers["a14b"], attention_head_dim=32),
    vae=TINY.vae,
    short=TINY.short["a14b"],
    clips={
        "480p": VideoSpec(width=48, height=32, num_frames=5, fps=16),
        "720p": VideoSpec(width=64, height=32, num_frames=5, fps=16),
    },
)
TINY_5B = replace(
    TI2V_5B,
    transformer=replace(TINY.transformers["ti2v-5b"], attention_head_dim=32),
    vae=replace(wan_vae.WAN22_VAE, base_dim=8, decoder_base_dim=8, num_res_blocks=1),
    short=TINY.short["ti2v-5b"],
    clips={"704p": VideoSpec(width=64, height=32, num_frames=5, fps=24)},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RungParts:
    """Implements `rushes.pipelines.base.Parts` on one rung: one network stands for both noise experts."""

    kind: Kind
    wan: Wan
    decoder: wan_vae.WanVAE
    encoder: UMT5TextEncoder
    identity: str
    encoder_revision: str = "random"
    loras: Sequence[str] = ()

    @property
    def transformer_config(self) -> WanConfig:
        """See `Parts`."""
        return self.kind.transformer

    @property
    def vae_config(self) -> WanVAEConfig:
        """See `Parts`."""
        return self.kind.vae

    def experts(self, lora: str | None = None) -> ExpertPair:
        """See `Parts`."""
        boundary = load_rules(self.kind.rules).boundary
        if boundary is None:
            return OneExpert(self.wan)
        return ResidentExperts(self.wan, self.wan, boundary=boundary)

    def vae(self) -> wan_vae.WanVAE:
        """See `Parts`."""
        return self.decoder

    def text_encoder(self) -> UMT5TextEncoder:
        """See `Parts`."""
        return self.encoder

    def expect(self, shapes: Sequence[ClipShape]) -> None:
        """See `Parts`. The rows time first calls themselves."""


class Fleet:
    """Everything of one kind on one device, each part made when first asked for.

    Args:
        base: the plain transformer in bfloat16; None draws one.
        without: passes to leave out.
    """

    def __init__(
        self,
        kind: Kind,
        device: torch.device,
        *,
        is_tiny: bool,
        base: Wan | None = None,
        without: Collection[str] = (),
    ) -> None:
        self.kind, self.device = kind, device
        self.umt5_config: UMT5Config = (TINY if is_tiny else TRUE).umt5
        self.text_len = (TINY if is_tiny else TRUE).text_len
        self.base = base if base is not None else random_wan(kind.transformer, 1, device, BF16)
        self.base_vae = random_vae(kind.vae, 3, device, BF16)
        self._rungs = {rung.name: rung for rung in rungs(device, without)}
        self._made: dict[str, tuple[Wan, wan_vae.WanVAE, Rung]] = {}

    def rung(self, name: str) -> tuple[Wan, wan_vae.WanVAE, Rung]:
        """Transformer and VAE on a rung, and the passes that they went through."""
        if name not in self._made:
            network, rung = changed("transformer", self.base, self._rungs[name])
            vae, rung = changed("vae", self.base_vae, rung)
            self._made[name] = network, vae, rung
        return self._made[name]

    def warm_up(self, name: str, shape: Sequence[int]) -> None:
        """What `Model.warm_up` does with a rung's transformer, for latents (C, T, H, W) of one clip."""
        network, _, rung = self.rung(name)
        channels, frames, rows, columns = shape
        expected = ClipShape(latent_shape=(channels, frames, rows, columns), text_len=self.text_len)
        Plan(passes=rung.passes).warm_up("transformer", network, expected)

    def distinct(self, names: Sequence[str]) -> list[str]:
        """Those of the rungs whose passes are not those of one before: where a rung's own are missing,
        timing it would say nothing."""
        found: dict[str, Any] = {}
        for name in names:
            passes = self.rung(name)[2].passes
            if passes not in found.values():
                found[name] = passes
        return list(found)

    def drop(self, name: str) -> None:
        """Give its memory back."""
        self._made.pop(name, None)

    def model(self, name: str) -> Model:
        """The library's model on a rung, that shares text encoder and weights with the others."""
        network, vae, _ = self.rung(name)
        parts = RungParts(kind=self.kind, wan=network, decoder=vae, encoder=self.encoder, identity=name)
        rules = load_rules(self.kind.rules)
        return Model(rules, parts, boundary=rules.boundary, device=self.device)

    @cached_property
    def tokenizer(self) -> Any:
        """Of its few words; both sides use it."""
        with tempfile.TemporaryDirectory(prefix="rushes-tokenizer-") as scratch:
            folder = Path(scratch) / "tokenizer"
            write_tokenizer(folder)
            return load_tokenizer(folder)

    @cached_property
    def encoder(self) -> UMT5TextEncoder:
        """UMT5; diffusers' side uses the same module."""
        module = fill(umt5.build_umt5(self.umt5_config), seed=4, device=self.device, dtype=BF16)
        umt5.tie_embedding(module)
        return UMT5TextEncoder(module, self.tokenizer, self.text_len)

    @cached_property
    def twin(self) -> WanTransformer3DModel:
        """diffusers' transformer; its weights are views of ours."""
        return diffusers_sharing(self.base, BF16)

    @cached_property
    def their_vae(self) -> AutoencoderKLWan:
        """diffusers' VAE with weights of its own: no time depends on them."""
        return diffusers_vae(self.kind.vae, self.device)

    @cached_property
    def their_pipe(self) -> WanPipeline:
        """WanPipeline as it comes; Euler, as LightX2V's distilled weights are sampled."""
        pipe = WanPipeline(
            tokenizer=self.tokenizer,
            text_encoder=self.encoder.model,
            vae=self.their_vae,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
            transformer=self.twin,
            transformer_2=self.twin if self.kind.has_two else None,
            boundary_ratio=load_rules(self.kind.rules).boundary,
            expand_timesteps=not self.kind.has_two,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe


def diffusers_vae(config: WanVAEConfig, device: torch.device) -> AutoencoderKLWan:
    """diffusers' VAE of that shape in bfloat16, random."""
    folded = config.patch_size**2
    fields: dict[str, Any] = {
        "base_dim": config.base_dim,
        "decoder_base_dim": config.decoder_base_dim,
        "z_dim": config.z_dim,
        "dim_mult": list(config.dim_mult),
        "num_res_blocks": config.num_res_blocks,
        "attn_scales": [],
        "temperal_downsample": list(config.temporal_downsample),
        "is_residual": config.is_residual,
        "in_channels": config.in_channels * folded,
        "out_channels": config.out_channels * folded,
        "patch_size": config.patch_size if config.patch_size > 1 else None,
        "scale_factor_spatial": config.spatial_stride,
        "scale_factor_temporal": config.temporal_stride,
        "latents_mean": list(config.latents_mean),
        "latents_std": list(config.latents_std),
    }
    torch.manual_seed(3)
    vae = AutoencoderKLWan(**fields).to(device, BF16)
    return vae.eval().requires_grad_(False)
