"""The Wan causal video VAE (Wan2.1 and Wan2.2): pixels to latents and back, whole or as a stream.

Source: Wan-Video/Wan2.2 `wan/modules/vae2_1.py`, `vae2_2.py`; diffusers `AutoencoderKLWan`. A clip of 1 + s*n
frames has 1 + n latents (s the temporal stride): the first latent is one frame, every other s frames. Nothing
on the module changes in a call, so one module decodes any number of clips side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rushes.errors import CheckpointError, InvalidRequest
from rushes.models.base import Source
from rushes.models.configs import WanVAEConfig
from rushes.models.wan_vae_blocks import Decoder, Encoder, FrameCache, fold_pixels, unfold_pixels
from rushes.models.wan_vae_names import diffusers_name, wan_name

WAN21_VAE = WanVAEConfig(
    latents_mean=(
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    ),
    latents_std=(
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    ),
)
"""`Wan2.1_VAE.pth`: the VAE of Wan2.1 and of the Wan2.2 A14B models."""

WAN22_VAE = WanVAEConfig(
    base_dim=160,
    decoder_base_dim=256,
    z_dim=48,
    is_residual=True,
    patch_size=2,
    latents_mean=(
        *(
            -0.2289,
            -0.0052,
            -0.1323,
            -0.2339,
            -0.2799,
            0.0174,
            0.1838,
            0.1557,
            -0.1382,
            0.0542,
            0.2813,
            0.0891,
        ),
        *(
            0.1570,
            -0.0098,
            0.0375,
            -0.1825,
            -0.2246,
            -0.1207,
            -0.0698,
            0.5109,
            0.2665,
            -0.2108,
            -0.2158,
            0.2502,
        ),
        *(
            -0.2055,
            -0.0322,
            0.1109,
            0.1567,
            -0.0729,
            0.0899,
            -0.2799,
            -0.1230,
            -0.0313,
            -0.1649,
            0.0117,
            0.0723,
        ),
        *(
            -0.2839,
            -0.2083,
            -0.0520,
            0.3748,
            0.0152,
            0.1957,
            0.1433,
            -0.2944,
            0.3573,
            -0.0548,
            -0.1681,
            -0.0667,
        ),
    ),
    latents_std=(
        *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901),
        *(0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
        *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944),
        *(0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
    ),
)
"""`Wan2.2_VAE.pth`: the VAE of Wan2.2 TI2V-5B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeState:
    """Where a decoding clip stands: 2 past input frames of each temporal convolution, in decoder order."""

    past: tuple[Tensor, ...]

    @classmethod
    def stack(cls, states: Sequence[DecodeState]) -> DecodeState:
        """One state for the clips of all `states`, which stand at equal places; a copy."""
        return cls(past=tuple(torch.cat(parts) for parts in zip(*(s.past for s in states), strict=True)))

    def clip(self, number: int) -> DecodeState:
        """The state of one clip of a stack; a copy, as a view would hold the whole stack."""
        return DecodeState(past=tuple(part[number : number + 1].clone() for part in self.past))


DecodeStep = Callable[["WanVAE", Tensor, DecodeState | None], tuple[Tensor, DecodeState]]
"""`WanVAE.plain_step`, or what a pass puts in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeState:
    """Where an encoding clip stands: past input frames of each temporal convolution, in encoder order."""

    past: tuple[Tensor, ...]


class WanVAE(nn.Module):
    """Encoder and decoder of `config`.

    Latents are normalised per channel by the config's mean and std, float32 when we make them. Videos are
    [B, 3, T, H, W] in [-1, 1], T = 1 + temporal stride * n, in the dtype of the weights when we make them.

    Attributes:
        step: what decodes a latent frame instead of `plain_step`, with states of its own; a pass sets it. One
            that takes latents of several clips at once has an attribute `takes_batches`: dimension 0 of all
            that it returns is then the clip.

    Example:
        >>> config = WanVAEConfig(base_dim=8, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,))
        >>> vae = WanVAE(config)
        >>> vae.decode(torch.zeros(1, 16, 3, 4, 6)).shape
        torch.Size([1, 3, 5, 8, 12])
    """

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Linear(2 * config.z_dim, 2 * config.z_dim)
        self.post_quant_conv = nn.Linear(config.z_dim, config.z_dim)
        self.decoder = Decoder(config)
        self.step: DecodeStep | None = None

    def decode(self, latents: Tensor) -> Tensor:
        """[B, z, T', h, w] normalised -> [B, 3, T, H, W] in [-1, 1]: `decode_step` over the latent frames."""
        batch_size, _, num_latents, height, width = latents.shape
        stride, scale = self.config.temporal_stride, self.config.spatial_stride
        shape = (batch_size, self.config.out_channels, 1 + stride * (num_latents - 1))
        video = self._weights().new_empty(*shape, height * scale, width * scale)
        state = None
        for i in range(num_latents):
            frames, state = self.decode_step(latents[:, :, i : i + 1], state)
            end = 1 + stride * i
            video[:, :, end - frames.shape[2] : end] = frames
        return video

    def decode_step(self, latent: Tensor, state: DecodeState | None = None) -> tuple[Tensor, DecodeState]:
        """Decode the next latent frame of a clip.

        Args:
            latent: [B, z, 1, h, w], normalised.
            state: what the step before returned, None for the clip's first latent. It is not changed and may
                be used again.

        Returns:
            frames [B, 3, 1 or temporal stride, H, W] in [-1, 1], and the state for the next latent frame.
        """
        assert latent.shape[2] == 1, "one latent frame a step"
        return self.plain_step(latent, state) if self.step is None else self.step(self, latent, state)

    @property
    def takes_batches(self) -> bool:
        """Whether `decode_step` may be given the latents of several clips, stacked, with their states."""
        return self.step is None or getattr(self.step, "takes_batches", False)

    def plain_step(self, latent: Tensor, state: DecodeState | None = None) -> tuple[Tensor, DecodeState]:
        """`decode_step` as the blocks are written."""
        cache = FrameCache(state.past if state else None)
        return self._decode(latent, cache).clamp(-1, 1), DecodeState(past=tuple(cache.next))

    def decode_whole(self, latents: Tensor) -> Tensor:
        """[B, z, T', h, w] normalised -> [B, 3, T, H, W], not clamped: one causal convolution over the whole
        clip per layer and no cache. For training, and the reference of the stream; memory grows with T."""
        return self._decode(latents, FrameCache(None, keep=False))

    def _decode(self, latents: Tensor, cache: FrameCache) -> Tensor:
        return unfold_pixels(self.decoder(self.decoder_input(latents), cache), self.config.patch_size)

    def decoder_input(self, latents: Tensor) -> Tensor:
        """[B, z, T', h, w] normalised -> [B, T', h, w, z], what the decoder's first convolution takes."""
        z: Tensor = self.post_quant_conv(self._denormalise(latents).to(self._weights().dtype).movedim(1, -1))
        return z

    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> [B, z, T', H', W'] normalised posterior mean: `encode_step` over the clip.

        Raises:
            InvalidRequest: T is not 1 + temporal stride * n, or H or W no multiple of the spatial stride.
        """
        self._check_size(video)
        mean, state = self.encode_step(video[:, :, :1])
        means = [mean]
        for start in range(1, video.shape[2], self.config.temporal_stride):
            chunk = video[:, :, start : start + self.config.temporal_stride]
            mean, state = self.encode_step(chunk, state)
            means.append(mean)
        return torch.cat(means, dim=2)

    def encode_step(self, frames: Tensor, state: EncodeState | None = None) -> tuple[Tensor, EncodeState]:
        """Encode the next frames of a clip: one at its start (state None), then temporal stride at a time.

        Returns:
            the normalised posterior mean [B, z, 1, H', W'], and the state for the next frames.
        """
        cache = FrameCache(state.past if state else None)
        mean, _ = self._posterior(frames, cache)
        return self._normalise(mean), EncodeState(past=tuple(cache.next))

    def encode_whole(self, video: Tensor) -> Tensor:
        """`encode` by one causal convolution over the whole clip per layer, as `decode_whole` decodes. For
        training; memory grows with T. Raises as `encode` does."""
        return self._normalise(self.posterior(video)[0])

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, T, H, W] -> mean and log variance [B, z, T', H', W'], neither normalised nor clamped, by one
        causal convolution over the whole clip per layer. Raises as `encode` does."""
        self._check_size(video)
        return self._posterior(video, FrameCache(None, keep=False))

    def _posterior(self, video: Tensor, cache: FrameCache) -> tuple[Tensor, Tensor]:
        folded = fold_pixels(video.to(self._weights().dtype), self.config.patch_size)
        moments = self.quant_conv(self.encoder(folded, cache)).movedim(-1, 1)
        mean, logvar = moments.contiguous().chunk(2, dim=1)
        return mean, logvar

    def _check_size(self, video: Tensor) -> None:
        num_frames, height, width = video.shape[2:]
        time, space = self.config.temporal_stride, self.config.spatial_stride
        if (num_frames - 1) % time:
            raise InvalidRequest("num_frames", f"{num_frames} is not {time}n + 1")
        if height % space or width % space:
            raise InvalidRequest("size", f"{width}x{height} is not a multiple of {space} each way")

    def _normalise(self, mean: Tensor) -> Tensor:
        if not self.config.latents_mean:
            return mean.float()
        shift, scale = self._statistics(mean.device)
        return (mean.float() - shift) / scale

    def _denormalise(self, latents: Tensor) -> Tensor:
        if not self.config.latents_mean:
            return latents
        shift, scale = self._statistics(latents.device)
        return latents.float() * scale + shift

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std of the latents, [z, 1, 1, 1] each. Not buffers, which a model built on the meta device
        would lose; the copies do not wait for the device."""
        values = torch.tensor([self.config.latents_mean, self.config.latents_std], device="cpu")
        shift, scale = values.to(device, non_blocking=True)[..., None, None, None]
        return shift, scale

    def _weights(self) -> Tensor:
        return self.post_quant_conv.weight


def to_uint8(frames: Tensor) -> Tensor:
    """[B, 3, T, H, W] in [-1, 1] -> uint8 [B, T, H, W, 3] on the same device, rounded to nearest."""
    levels = frames.float().mul(127.5).add_(127.5).round_().clamp_(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


def keep_float32(name: str) -> bool:
    """Whether a weight stays float32 in a bf16 model. None has to: the norms, which need float32 sums, take
    them in float32 whatever the weights are."""
    return False


def config_from_dict(raw: Mapping[str, Any], layout: Literal["diffusers", "wan"]) -> WanVAEConfig:
    """Read the `config.json` of a diffusers `vae/` folder. The original layout has none: its weights are
    `WAN21_VAE` or `WAN22_VAE`.

    Raises:
        CheckpointError: of another class, of the original layout, or with attention inside the levels.
    """
    if layout == "wan":
        raise CheckpointError("the original Wan layout has no VAE config; use WAN21_VAE or WAN22_VAE")
    name = raw.get("_class_name", "AutoencoderKLWan")
    if name != "AutoencoderKLWan":
        raise CheckpointError(f"the VAE is a {name}; only AutoencoderKLWan is supported")
    if scales := raw.get("attn_scales"):
        raise CheckpointError(f"attn_scales {scales}: attention inside the VAE's levels is not supported")
    patch_size = raw.get("patch_size") or 1
    defaults = WanVAEConfig()
    same = ("base_dim", "decoder_base_dim", "z_dim", "num_res_blocks", "is_residual")
    return WanVAEConfig(
        **{field: raw.get(field, getattr(defaults, field)) for field in same},
        dim_mult=tuple(raw.get("dim_mult", defaults.dim_mult)),
        temporal_downsample=tuple(raw.get("temperal_downsample", defaults.temporal_downsample)),
        patch_size=patch_size,
        # Theirs count the channels of a folded patch.
        in_channels=raw.get("in_channels", 3 * patch_size**2) // patch_size**2,
        out_channels=raw.get("out_channels", 3 * patch_size**2) // patch_size**2,
        latents_mean=tuple(raw.get("latents_mean", WAN21_VAE.latents_mean)),
        latents_std=tuple(raw.get("latents_std", WAN21_VAE.latents_std)),
    )


def sources(config: WanVAEConfig, layout: Literal["diffusers", "wan"]) -> dict[str, Source]:
    """From which checkpoint tensor each of our tensors is made, by our name.

    Args:
        layout: "diffusers" or "wan" (`Wan2.1_VAE.pth`, `Wan2.2_VAE.pth`).
    """
    with torch.device("meta"):
        state = WanVAE(config).state_dict()
    rename = diffusers_name if layout == "diffusers" else wan_name
    return {
        # Norms and pointwise convolutions are stored with trailing dimensions of 1.
        name: Source(names=(rename(name, config),), reshape=tuple(tensor.shape) if tensor.ndim < 3 else None)
        for name, tensor in state.items()
    }
