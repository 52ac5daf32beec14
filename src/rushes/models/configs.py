"""Architectures as data, without torch. Field names are diffusers' where diffusers has the field."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """A token-routed FFN: `top_k` of `num_experts` per token by sigmoid score plus balance bias (the bias
    picks, the normalised sigmoid scores weigh), and one shared expert that every token passes (0: none)."""

    num_experts: int
    top_k: int
    expert_dim: int
    shared_dim: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WanConfig:
    """A Wan diffusion transformer.

    Attributes:
        experts: token experts instead of the dense FFN, in all layers from `first_expert_layer` on.
        pooled_dim: width of one pooled text vector added to the time embedding; 0: none (all public Wan).
    """

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    ffn_dim: int
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_max_seq_len: int = 1024
    experts: ExpertsConfig | None = None
    first_expert_layer: int = 0
    pooled_dim: int = 0

    @property
    def dim(self) -> int:
        """Width of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class WanVAEConfig:
    """A causal video VAE. Wan2.1: the defaults. Wan2.2: base 160, decoder 256, z 48, patch 2, residual."""

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int = 1
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell, each way."""
        return int(2 ** (len(self.dim_mult) - 1)) * self.patch_size

    @property
    def temporal_stride(self) -> int:
        """Frames per latent after the first (the first latent is one frame)."""
        return int(2 ** sum(self.temporal_downsample))
