"""`WanVAE.decode_step` with nothing between two convolutions but one kernel, for any size and batch.

The plain blocks write every activation several times on its way from one convolution to the next: bias,
shortcut, norm, SiLU, past frames, a copy of the last frames. Here a block hands on what is still to be added
up (`Addends`), and the kernel that makes the next convolution's window adds it. A nearest doubling is folded
into the 2-D convolution behind it: 4/9 of the products, and the doubled activation is never written. Layers
where cuDNN is slow are computed by our own kernel, over windows with borders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.wan_vae import DecodeState, WanVAE
from rushes.models.wan_vae_blocks import (
    ChannelNorm,
    MidBlock,
    ResidualBlock,
    TimeConv3d,
    UpBlock,
    Upsample,
    as_frames,
    as_images,
    duplicate_up,
    unfold_pixels,
)
from rushes.ops import bordered_conv
from rushes.ops.frame_window import PAST, Addends, WindowKernels, phase_weight
from rushes.ops.layout import channels_last

Convs = Literal["auto", "own", "cudnn"]
"""auto: our kernel where it was measured to be faster. own: in every residual block that it can compute.
cudnn: nowhere."""

OUT_CHANNELS_MULTIPLE = 8
"""Tensor core convolutions take rows of 16 bytes; pixels have 3 or 12 channels."""


def convolve(window: Tensor, conv: TimeConv3d, weight: Tensor | None = None) -> Tensor:
    """[B, T + 2, H, W, C] -> [B, T, H, W, O] without the bias; no copies around the kernel on CUDA."""
    weight = conv.weight if weight is None else weight
    if window.is_cpu:
        return conv.sum_over_taps(window, weight, None)
    out = F.conv3d(window.movedim(-1, 1), weight, None, conv.stride, conv.padding).movedim(1, -1)
    # cuDNN keeps channels last; should a library not, the next kernel would read rubbish.
    return out.contiguous()


class FusedStep:
    """Implements `DecodeStep` for the weights of `vae`, which it lays out for the kernels, in place."""

    takes_batches = True

    def __init__(self, vae: WanVAE, kernels: WindowKernels, convs: Convs) -> None:
        channels_last(vae.decoder)
        self.kernels = kernels
        self.own_convs = own_convs(vae, kernels, convs)
        self.phase_weights = {
            id(conv): phase_weight(conv.weight).contiguous(memory_format=torch.channels_last)
            for conv in (module.conv for module in vae.decoder.modules() if isinstance(module, Upsample))
        }
        weight = vae.decoder.conv_out.weight
        self.num_pixel_channels = len(weight)
        padded = F.pad(weight, (0, 0) * 4 + (0, -len(weight) % OUT_CHANNELS_MULTIPLE))
        self.out_weight = padded.contiguous(memory_format=torch.channels_last_3d)

    def __call__(self, vae: WanVAE, latent: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
        """See `DecodeStep`."""
        return _Walk(self, state).decode(vae, latent)


def own_convs(vae: WanVAE, kernels: WindowKernels, convs: Convs) -> frozenset[int]:
    """Ids of the layers that our kernel computes. Raises `ConfigError` where it is asked for in vain."""
    if convs == "own" and kernels.conv is None:
        raise ConfigError(
            "pass vae-fused: convs own: the kernel is made for Hopper GPUs and bfloat16; choose auto or cudnn"
        )
    if convs == "cudnn" or kernels.conv is None:
        return frozenset()
    is_own = bordered_conv.takes if convs == "own" else bordered_conv.is_faster
    resnets = (module for module in vae.decoder.modules() if isinstance(module, ResidualBlock))
    layers = (conv for block in resnets for conv in (block.conv1, block.conv2))
    return frozenset(id(conv) for conv in layers if is_own(conv))


def with_bias(out: Tensor, conv: nn.Conv3d) -> Tensor:
    """In place."""
    assert conv.bias is not None, "every convolution of the VAE has one"
    return out.add_(conv.bias)


class _Walk:
    """One call: goes through the decoder, takes past frames in order and gathers those for the next call."""

    def __init__(self, step: FusedStep, state: DecodeState | None) -> None:
        self.step = step
        self.is_start = state is None
        self.past: Iterator[Tensor] = iter(state.past if state else ())
        self.next: list[Tensor] = []

    def decode(self, vae: WanVAE, latent: Tensor) -> tuple[Tensor, DecodeState]:
        decoder = vae.decoder
        z = vae.decoder_input(latent).contiguous()
        x = self.conv(decoder.conv_in, self.window(Addends(values=z)))
        x = self.mid_block(decoder.mid_block, x)
        for block in decoder.up_blocks:
            x = self.up_block(cast(UpBlock, block), x)
        window = self.window(x, decoder.norm_out)
        padded = convolve(window, decoder.conv_out, self.step.out_weight)
        pixels = with_bias(padded[..., : self.step.num_pixel_channels], decoder.conv_out)
        frames = unfold_pixels(pixels, vae.config.patch_size).clamp(-1, 1)
        return frames, DecodeState(past=tuple(self.next))

    def window(self, x: Addends, norm: ChannelNorm | None = None) -> Tensor:
        return self.window_and_total(x, norm, with_total=False)[0]

    def window_and_total(
        self, x: Addends, norm: ChannelNorm | None, *, with_total: bool, with_border: bool = False
    ) -> tuple[Tensor, Tensor]:
        past = None if self.is_start else next(self.past)
        is_sum = x.is_phased or x.is_bordered or x.bias is not None or x.shortcut is not None
        weight = None if norm is None else norm.weight
        made = self.step.kernels.window(x, past, weight, with_total and is_sum, with_border)
        self.next.append(made.past)
        return made.frames, x.values if made.total is None else made.total

    def conv(self, conv: TimeConv3d, window: Tensor) -> Addends:
        return Addends(values=convolve(window, conv), bias=conv.bias)

    def normed_conv(
        self, conv: TimeConv3d, norm: ChannelNorm, x: Addends, *, with_total: bool
    ) -> tuple[Addends, Tensor]:
        """Norm, SiLU and convolution of a sum, and the sum if it is wanted."""
        own = self.step.kernels.conv if id(conv) in self.step.own_convs else None
        window, total = self.window_and_total(x, norm, with_total=with_total, with_border=own is not None)
        if own is None:
            return self.conv(conv, window), total
        return Addends(values=own(window, conv.weight), bias=conv.bias, is_bordered=True), total

    def residual_block(self, block: ResidualBlock, x: Addends) -> tuple[Addends, Tensor]:
        """The block's sum, and its input added up."""
        h, total = self.normed_conv(block.conv1, block.norm1, x, with_total=True)
        h, _ = self.normed_conv(block.conv2, block.norm2, h, with_total=False)
        return replace(h, shortcut=block.conv_shortcut(total)), total

    def mid_block(self, block: MidBlock, x: Addends) -> Addends:
        x, _ = self.residual_block(cast(ResidualBlock, block.resnets[0]), x)
        attended = block.attention(self.step.kernels.total(x))
        x, _ = self.residual_block(cast(ResidualBlock, block.resnets[1]), Addends(values=attended))
        return x

    def up_block(self, block: UpBlock, x: Addends) -> Addends:
        block_input = None
        for resnet in block.resnets:
            x, total = self.residual_block(cast(ResidualBlock, resnet), x)
            block_input = total if block_input is None else block_input
        if block.upsample is None:
            return x
        assert block_input is not None
        shortcut = None
        if block.has_shortcut:
            shortcut = duplicate_up(
                block_input, block.dim, time=block.time, space=block.space, is_start=self.is_start
            ).contiguous()
        return self.upsample(block.upsample, x, shortcut)

    def upsample(self, block: Upsample, x: Addends, shortcut: Tensor | None) -> Addends:
        if block.time_conv is None:
            total = self.step.kernels.total(x)
        elif self.is_start:
            # The temporal convolution starts on zeros at the second latent frame.
            total = self.step.kernels.total(x)
            self.next.append(total.new_zeros(total.shape[0], PAST, *total.shape[2:]))
        else:
            total = self.double(block.time_conv, x)
        weight = self.step.phase_weights[id(block.conv)]
        images = F.conv2d(as_images(total), weight, None, padding=1)
        values = as_frames(images, total.shape[0]).contiguous()
        return Addends(values=values, bias=block.conv.bias, shortcut=shortcut, is_phased=True)

    def double(self, time_conv: TimeConv3d, x: Addends) -> Tensor:
        """Two frames of each: the temporal convolution makes both, side by side in channels."""
        both = with_bias(convolve(self.window(x), time_conv), time_conv)
        pairs: Tensor = torch.unflatten(both, -1, (2, -1)).movedim(4, 2)
        return pairs.flatten(1, 2).contiguous()
