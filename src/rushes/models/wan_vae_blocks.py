"""The blocks of the Wan causal video VAE: a convolution sees the frames before it and none after.

Activations are [B, T, H, W, C]: with channels last in fact, not only in strides, convolution kernels get the
layout they want, 1x1x1 convolutions are matrix products, and the norm reads neighbours. Every block takes the
frames of one chunk and a `FrameCache`, which hands each convolution the frames that went before. A whole clip
is one chunk at the start, so the stream and the cache-free convolution over the clip are the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.configs import WanVAEConfig


class FrameCache:
    """The past frames of every temporal convolution, read in order during one call and written for the next.

    Args:
        past: what the call before wrote, None at the start of a clip.
        keep: whether to write at all; a whole clip has no call after it.
    """

    def __init__(self, past: Sequence[Tensor] | None, *, keep: bool = True) -> None:
        self.is_start = past is None
        self.next: list[Tensor] = []
        self._past = iter(past or ())
        self._keep = keep

    def zero_padded(self, x: Tensor) -> Tensor:
        """`x` behind its 2 past frames, zeros at the start: [B, T, H, W, C] -> [B, T+2, H, W, C]."""
        past = x.new_zeros(x.shape[0], 2, *x.shape[2:]) if self.is_start else next(self._past)
        window = torch.cat([past, x], dim=1)
        self._write(window[:, -2:])
        return window

    def overlapped(self, x: Tensor) -> Tensor:
        """`x` behind its last past frame, which does not exist at the start."""
        window = x if self.is_start else torch.cat([next(self._past), x], dim=1)
        self._write(window[:, -1:])
        return window

    def _write(self, frames: Tensor) -> None:
        # A view would hold the whole window until the next call. Contiguous: for other strides, be it of a
        # dimension of size 1, a compiler makes one more graph.
        if self._keep:
            self.next.append(frames.clone(memory_format=torch.contiguous_format))


def as_images(x: Tensor) -> Tensor:
    """[B, T, H, W, C] -> [B*T, C, H, W], for a 2-D convolution."""
    return x.flatten(0, 1).movedim(-1, 1)


def as_frames(images: Tensor, batch_size: int) -> Tensor:
    """[B*T, C, H, W] -> [B, T, H, W, C]."""
    x = images.movedim(1, -1)
    return x.reshape(batch_size, -1, *x.shape[1:])


class ChannelNorm(nn.Module):
    """RMS norm over channels. The sum is in float32 whatever the input's dtype."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, eps=1e-24)


class TimeConv3d(nn.Conv3d):
    """[B, T, H, W, C] -> the same: a 3-D convolution without padding in time."""

    def forward(self, input: Tensor) -> Tensor:
        if input.is_cpu:
            return self.sum_over_taps(input, self.weight, self.bias)
        return super().forward(input.movedim(-1, 1)).movedim(1, -1).contiguous()

    def sum_over_taps(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One 2-D convolution per tap in time. PyTorch sends a small float32 `conv3d` of batch 1 to a kernel
        5 times slower than oneDNN's, which every `conv2d` of this size gets."""
        span = x.shape[1] - self.kernel_size[0] + 1
        out: Tensor | None = None
        for tap in range(self.kernel_size[0]):
            images = as_images(x[:, tap : tap + span : self.stride[0]])
            part = F.conv2d(images, weight[:, :, tap], bias, self.stride[1:], self.padding[1:])
            out, bias = part if out is None else out.add_(part), None
        assert out is not None
        return as_frames(out, x.shape[0])


def causal_conv(in_dim: int, out_dim: int) -> TimeConv3d:
    """A 3x3x3 convolution padded in space; `FrameCache.zero_padded` gives it the frames before."""
    return TimeConv3d(in_dim, out_dim, 3, padding=(0, 1, 1))


class ResidualBlock(nn.Module):
    """Two norm - SiLU - convolution rounds around a shortcut."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(in_dim)
        self.conv1 = causal_conv(in_dim, out_dim)
        self.norm2 = ChannelNorm(out_dim)
        self.conv2 = causal_conv(out_dim, out_dim)
        self.conv_shortcut = nn.Linear(in_dim, out_dim) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        h = self.conv1(cache.zero_padded(F.silu(self.norm1(x))))
        h = self.conv2(cache.zero_padded(F.silu(self.norm2(h))))
        out: Tensor = h + self.conv_shortcut(x)
        return out


class FrameAttention(nn.Module):
    """Self-attention of one head among the cells of each frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        cells = self.norm(x).flatten(2, 3).flatten(0, 1)
        q, k, v = self.to_qkv(cells)[:, None].chunk(3, dim=-1)
        # One head as wide as the block, 384 to 1024: more than the kernels for a transformer's heads take.
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0]
        out: Tensor = self.proj(attended)
        return x + out.view(x.shape)


class MidBlock(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(dim, dim), ResidualBlock(dim, dim)])
        self.attention = FrameAttention(dim)

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        x = self.resnets[0](x, cache)
        x = self.attention(x)
        out: Tensor = self.resnets[1](x, cache)
        return out


class Downsample(nn.Module):
    """Half the height and width; with `temporal` also half the frames after the clip's first, which stays."""

    def __init__(self, dim: int, *, temporal: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride=2)
        self.time_conv = TimeConv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        images = F.pad(as_images(x), (0, 1, 0, 1))
        x = as_frames(self.conv(images), x.shape[0])
        return x if self.time_conv is None else self._halve(x, self.time_conv, cache)

    def _halve(self, x: Tensor, time_conv: nn.Module, cache: FrameCache) -> Tensor:
        window = cache.overlapped(x)
        if window.shape[1] == 1:
            return x
        halved: Tensor = time_conv(window)
        return torch.cat([x[:, :1], halved], dim=1) if cache.is_start else halved


class Upsample(nn.Module):
    """Double the height and width; with `temporal` also the frames after the clip's first, which stays one.

    The temporal convolution never sees the clip's first frame: it starts on zeros at the second.
    """

    def __init__(self, dim: int, out_dim: int, *, temporal: bool) -> None:
        super().__init__()
        self.time_conv = TimeConv3d(dim, 2 * dim, (3, 1, 1)) if temporal else None
        self.conv = nn.Conv2d(dim, out_dim, 3, padding=1)

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        if self.time_conv is not None:
            x = self._double(x, self.time_conv, cache)
        images = F.interpolate(as_images(x), scale_factor=2.0, mode="nearest-exact")
        return as_frames(self.conv(images), x.shape[0])

    def _double(self, x: Tensor, time_conv: nn.Module, cache: FrameCache) -> Tensor:
        first, rest = x.tensor_split([int(cache.is_start)], dim=1)
        window = cache.zero_padded(rest)
        if rest.shape[1] == 0:
            return first
        b, t, h, w, c = rest.shape
        pairs = time_conv(window).view(b, t, h, w, 2, c)
        doubled: Tensor = pairs.movedim(4, 2).reshape(b, 2 * t, h, w, c)
        return torch.cat([first, doubled], dim=1) if cache.is_start else doubled


def average_down(x: Tensor, out_dim: int, *, time: int, space: int) -> Tensor:
    """Shortcut around a downsampling level: fold `time` x `space` x `space` cells into channels, then average
    neighbouring channels down to `out_dim`, or repeat them up to it. A first frame without the others of its
    group folds with zero frames before it.
    """
    x = F.pad(x, (0, 0, 0, 0, 0, 0, -x.shape[1] % time, 0))
    b, t, h, w, c = x.shape
    cells = x.view(b, t // time, time, h // space, space, w // space, space, c)
    folded = cells.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(4)
    if folded.shape[-1] < out_dim:
        folded = folded.repeat_interleave(out_dim // folded.shape[-1], dim=-1)
    return folded.view(*folded.shape[:-1], out_dim, -1).mean(-1)


def duplicate_up(x: Tensor, out_dim: int, *, time: int, space: int, is_start: bool) -> Tensor:
    """Shortcut around an upsampling level: repeat channels, then unfold them into `time` x `space` x `space`
    cells. A clip's first frame keeps only the last of its `time` copies.
    """
    b, t, h, w, c = x.shape
    repeated = x.repeat_interleave(out_dim * time * space**2 // c, dim=-1)
    cells = repeated.view(b, t, h, w, out_dim, time, space, space).permute(0, 1, 5, 2, 6, 3, 7, 4)
    out = cells.reshape(b, t * time, h * space, w * space, out_dim)
    return out[:, time - 1 :] if is_start else out


class DownBlock(nn.Module):
    """One level of the encoder: residual blocks, then a downsampling unless it is the last level."""

    def __init__(
        self, in_dim: int, out_dim: int, num_blocks: int, *, space: int, time: int, is_residual: bool
    ) -> None:
        super().__init__()
        folded = in_dim * time * space * space
        if is_residual and folded % out_dim and out_dim % folded:
            raise ConfigError(
                f"a VAE level cannot average {folded} folded channels to {out_dim}: not a multiple"
            )
        self.out_dim, self.space, self.time, self.is_residual = out_dim, space, time, is_residual
        dims = [in_dim] + [out_dim] * num_blocks
        self.resnets = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(dims))
        self.downsample = Downsample(out_dim, temporal=time == 2) if space == 2 else None

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        h = x
        for resnet in self.resnets:
            h = resnet(h, cache)
        if self.downsample is not None:
            h = self.downsample(h, cache)
        return h + average_down(x, self.out_dim, time=self.time, space=self.space) if self.is_residual else h


class UpBlock(nn.Module):
    """One level of the decoder: residual blocks, then an upsampling unless it is the last level."""

    def __init__(
        self, in_dim: int, dim: int, num_blocks: int, *, space: int, time: int, is_residual: bool
    ) -> None:
        super().__init__()
        self.dim, self.space, self.time = dim, space, time
        self.has_shortcut = is_residual and space == 2
        if self.has_shortcut and dim * time * space * space % in_dim:
            raise ConfigError(f"a VAE level cannot unfold {in_dim} channels to {dim}: not a multiple")
        dims = [in_dim] + [dim] * num_blocks
        self.resnets = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(dims))
        out_dim = dim if is_residual else dim // 2
        self.upsample = Upsample(dim, out_dim, temporal=time == 2) if space == 2 else None

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        h = x
        for resnet in self.resnets:
            h = resnet(h, cache)
        if self.upsample is not None:
            h = self.upsample(h, cache)
        if not self.has_shortcut:
            return h
        return h + duplicate_up(x, self.dim, time=self.time, space=self.space, is_start=cache.is_start)


def level_strides(config: WanVAEConfig) -> list[tuple[int, int]]:
    """(time, space) stride of each encoder level, highest resolution first; the last level has none."""
    return [(2 if temporal else 1, 2) for temporal in config.temporal_downsample] + [(1, 1)]


class Encoder(nn.Module):
    """Pixels folded by `patch_size` -> 2*z_dim moments, before the last pointwise convolution."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        dims = [config.base_dim * mult for mult in (1, *config.dim_mult)]
        self.conv_in = causal_conv(config.in_channels * config.patch_size**2, dims[0])
        self.down_blocks = nn.ModuleList(
            DownBlock(a, b, config.num_res_blocks, space=space, time=time, is_residual=config.is_residual)
            for (a, b), (time, space) in zip(pairwise(dims), level_strides(config), strict=True)
        )
        self.mid_block = MidBlock(dims[-1])
        self.norm_out = ChannelNorm(dims[-1])
        self.conv_out = causal_conv(dims[-1], 2 * config.z_dim)

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        x = self.conv_in(cache.zero_padded(x))
        for block in self.down_blocks:
            x = block(x, cache)
        x = self.mid_block(x, cache)
        out: Tensor = self.conv_out(cache.zero_padded(F.silu(self.norm_out(x))))
        return out


class Decoder(nn.Module):
    """Latents after the first pointwise convolution -> pixels folded by `patch_size`."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        base_dim = config.decoder_base_dim or config.base_dim
        dims = [base_dim * mult for mult in (config.dim_mult[-1], *reversed(config.dim_mult))]
        strides = [*reversed(level_strides(config)[:-1]), (1, 1)]
        self.conv_in = causal_conv(config.z_dim, dims[0])
        self.mid_block = MidBlock(dims[0])
        in_dims = [dims[0]] + [dim if config.is_residual else dim // 2 for dim in dims[1:-1]]
        self.up_blocks = nn.ModuleList(
            UpBlock(a, b, config.num_res_blocks + 1, space=space, time=time, is_residual=config.is_residual)
            for a, b, (time, space) in zip(in_dims, dims[1:], strides, strict=True)
        )
        self.norm_out = ChannelNorm(dims[-1])
        self.conv_out = causal_conv(dims[-1], config.out_channels * config.patch_size**2)

    def forward(self, x: Tensor, cache: FrameCache) -> Tensor:
        x = self.conv_in(cache.zero_padded(x))
        x = self.mid_block(x, cache)
        for block in self.up_blocks:
            x = block(x, cache)
        out: Tensor = self.conv_out(cache.zero_padded(F.silu(self.norm_out(x))))
        return out


def fold_pixels(video: Tensor, patch_size: int) -> Tensor:
    """[B, C, T, H*p, W*p] -> [B, T, H, W, C*p*p]; the column within a patch varies slower than the row."""
    p = patch_size
    b, c, t, h, w = video.shape
    patches = video.reshape(b, c, t, h // p, p, w // p, p)
    return patches.permute(0, 2, 3, 5, 1, 6, 4).reshape(b, t, h // p, w // p, c * p * p)


def unfold_pixels(x: Tensor, patch_size: int) -> Tensor:
    """Inverse of `fold_pixels`."""
    p = patch_size
    b, t, h, w, c = x.shape
    patches = x.view(b, t, h, w, c // p**2, p, p)
    return patches.permute(0, 4, 1, 2, 6, 3, 5).reshape(b, c // p**2, t, h * p, w * p)
