"""What the cost model must know of a model: its networks as data. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from rushes.models.configs import WanConfig, WanVAEConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TextShape:
    """A transformer that encodes prompts.

    Attributes:
        text_len: tokens that a prompt is padded to.
        attention_dim: heads x head width.
        ffn_matrices: 3 for a gated FFN, 2 for a plain one.
        num_parameters: embeddings included.
    """

    num_layers: int
    dim: int
    attention_dim: int
    num_heads: int
    ffn_dim: int
    ffn_matrices: int
    text_len: int
    num_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The networks of one pipeline, in the precision that they run in.

    Attributes:
        boundary: noise level of 0..1 at and above which the high-noise expert runs; None for one expert.
        vae_parameters: of encoder and decoder.
        weight_bytes: of one weight in memory, on average (2 for bfloat16, about 1 for fp8); float32 islands
            are 4 in any case.
        value_bytes: of one activation that is no float32 island.
        is_swapped: two noise experts share the memory of one (`rushes.models.expert_pair`).
        is_text_streamed: the text encoder is on the device block by block (`rushes.models.streamed`).
        decodes_batches: the VAE's step takes several clips at once (`WanVAE.takes_batches`).
    """

    transformer: WanConfig
    vae: WanVAEConfig
    text: TextShape
    vae_parameters: int
    boundary: float | None = None
    weight_bytes: float = 2.0
    value_bytes: int = 2
    is_swapped: bool = False
    is_text_streamed: bool = False
    decodes_batches: bool = True

    @property
    def num_experts(self) -> int:
        """Noise experts: 1 or 2."""
        return 1 if self.boundary is None else 2


UMT5_XXL = TextShape(
    num_layers=24,
    dim=4096,
    attention_dim=4096,
    num_heads=64,
    ffn_dim=10240,
    ffn_matrices=3,
    text_len=512,
    num_parameters=5_680_910_336,
)
"""Wan's text encoder; see `rushes.models.umt5`."""

WAN21_VAE = WanVAEConfig()
WAN22_VAE = WanVAEConfig(base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, patch_size=2)

WAN22_T2V_A14B = ModelShape(
    transformer=WanConfig(
        num_layers=40,
        num_attention_heads=40,
        attention_head_dim=128,
        in_channels=16,
        out_channels=16,
        ffn_dim=13824,
    ),
    vae=WAN21_VAE,
    text=UMT5_XXL,
    vae_parameters=126_892_531,
    boundary=0.875,
)
WAN22_TI2V_5B = ModelShape(
    transformer=WanConfig(
        num_layers=30,
        num_attention_heads=24,
        attention_head_dim=128,
        in_channels=48,
        out_channels=48,
        ffn_dim=14336,
    ),
    vae=WAN22_VAE,
    text=UMT5_XXL,
    vae_parameters=704_688_668,
)
WAN21_T2V_1_3B = ModelShape(
    transformer=WanConfig(
        num_layers=30,
        num_attention_heads=12,
        attention_head_dim=128,
        in_channels=16,
        out_channels=16,
        ffn_dim=8960,
    ),
    vae=WAN21_VAE,
    text=UMT5_XXL,
    vae_parameters=126_892_531,
)
