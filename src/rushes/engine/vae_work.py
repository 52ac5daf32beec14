"""What decoding one latent frame asks of a device: the walk of `rushes.models.wan_vae_blocks.Decoder`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from rushes.engine.shapes import ModelShape
from rushes.engine.work import Work
from rushes.models.configs import WanVAEConfig

PAST = 2
"""Frames that a temporal convolution keeps of those before."""

MOST_PIXELS_TOGETHER = 2**20
"""Pixels that one decode makes of the clips of a batch. One latent of 480p (1.6 million) fills a card by
itself: two of them are as quick as one after another, and take twice the memory."""


def most_decoded_together(shape: ModelShape, rows: int, columns: int) -> int:
    """Most clips that are decoded in one forward, of latents of rows x columns cells; 1 for none together."""
    if not shape.decodes_batches:
        return 1
    pixels = shape.vae.temporal_stride * rows * columns * shape.vae.spatial_stride**2
    return max(1, MOST_PIXELS_TOGETHER // pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWork:
    """One latent frame.

    Attributes:
        state_values: values that the decoder keeps for the next latent frame.
        working_values: most values alive at a moment of the call, the new state included and the old not.
    """

    work: Work
    state_values: int
    working_values: int


@cache
def decode_work(
    config: WanVAEConfig, rows: int, columns: int, *, is_first: bool, value_bytes: int
) -> DecodeWork:
    """Decode one latent frame of rows x columns cells.

    Args:
        is_first: the clip's first, which becomes a single frame.
    """
    walk = _Walk(rows * columns, is_first=is_first)
    walk.decode(config)
    moved = float(walk.moved * value_bytes)
    work = Work(linear=walk.linear, attention=walk.attention, conv=walk.conv, moved=moved, layers=walk.layers)
    return DecodeWork(work=work, state_values=walk.state, working_values=walk.peak)


class _Walk:
    """Goes through the decoder as a latent frame does, and adds up.

    `cells` and `frames` are those of the activation at hand; `block_input` are values that the block around
    the present layer holds on to.
    """

    def __init__(self, cells: int, *, is_first: bool) -> None:
        self.cells, self.frames, self.is_first = cells, 1, is_first
        self.linear = self.attention = self.conv = 0
        self.layers = self.moved = self.state = self.peak = self.block_input = 0

    def decode(self, config: WanVAEConfig) -> None:
        base = config.decoder_base_dim or config.base_dim
        dims = [base * mult for mult in (config.dim_mult[-1], *reversed(config.dim_mult))]
        strides = [*reversed(config.temporal_downsample), None]
        self.pointwise(config.z_dim, config.z_dim)
        self.causal_conv(config.z_dim, dims[0])
        self.mid_block(dims[0])
        in_dim = dims[0]
        for dim, doubles in zip(dims[1:], strides, strict=True):
            is_last = doubles is None
            self.up_block(in_dim, dim, config.num_res_blocks + 1, config, doubles=doubles)
            in_dim = dim if config.is_residual or is_last else dim // 2
        self.norm_silu(in_dim)
        self.causal_conv(in_dim, config.out_channels * config.patch_size**2)

    def mid_block(self, dim: int) -> None:
        self.residual_block(dim, dim)
        self.pointwise(dim, 4 * dim)
        self.attention += 4 * self.frames * self.cells**2 * dim
        self.residual_block(dim, dim)

    def up_block(
        self, in_dim: int, dim: int, num_blocks: int, config: WanVAEConfig, *, doubles: bool | None
    ) -> None:
        self.block_input = in_dim * self.values
        for block in range(num_blocks):
            self.residual_block(in_dim if block == 0 else dim, dim)
        if doubles is not None:
            out_dim = dim if config.is_residual else dim // 2
            self.upsample(dim, out_dim, doubles=doubles)
            if config.is_residual:
                self.moved += 4 * out_dim * self.values
        self.block_input = 0

    def residual_block(self, in_dim: int, out_dim: int) -> None:
        self.norm_silu(in_dim)
        self.causal_conv(in_dim, out_dim, holds=in_dim)
        self.norm_silu(out_dim)
        self.causal_conv(out_dim, out_dim, holds=in_dim + out_dim)
        if in_dim != out_dim:
            self.pointwise(in_dim, out_dim)
        self.moved += 3 * out_dim * self.values

    def norm_silu(self, dim: int) -> None:
        self.moved += 4 * dim * self.values

    def causal_conv(self, in_dim: int, out_dim: int, *, holds: int = 0) -> None:
        """A 3x3x3 convolution behind its past frames; the caller holds on to `holds` channels."""
        self.layers += 1
        past = PAST * in_dim * self.cells
        window = in_dim * self.values + past
        self.conv += 2 * 27 * in_dim * out_dim * self.values
        self.moved += 3 * window + 2 * past + out_dim * self.values
        self.state += past
        held = holds * self.values + window + self.block_input
        self.live(held + max(in_dim, out_dim) * self.values)

    def upsample(self, dim: int, out_dim: int, *, doubles: bool) -> None:
        """Twice the rows and columns, and twice the frames except of the first latent frame."""
        self.layers += 1
        past = PAST * dim * self.cells if doubles else 0
        self.state += past
        if doubles and not self.is_first:
            self.conv += 2 * 3 * dim * 2 * dim * self.values
            self.moved += 3 * (dim * self.values + past) + 6 * dim * self.values
            self.frames *= 2
        self.cells *= 4
        self.conv += 2 * 9 * dim * out_dim * self.values
        self.moved += (3 * dim + out_dim) * self.values
        self.live(self.block_input + (dim + dim // 4 + out_dim) * self.values)

    def pointwise(self, in_dim: int, out_dim: int) -> None:
        self.linear += 2 * in_dim * out_dim * self.values
        self.moved += (in_dim + out_dim) * self.values

    def live(self, values: int) -> None:
        """So many values are alive beside the new state."""
        self.peak = max(self.peak, self.state + values)

    @property
    def values(self) -> int:
        """Values of one channel of the activation at hand."""
        return self.frames * self.cells
