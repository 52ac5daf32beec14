"""A tiny causal decoder of Wan latents, in the public layout of madebyollin/taehv (`taew2_1`, `taew2_2`).

Three levels of three blocks, each of which sees its own frame and the one before; 3x3 convolutions and ReLU,
no norms. A latent frame becomes 4 frames; of the clip's first only the last is kept, as the whole VAE has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from rushes.errors import CheckpointError
from rushes.models.at_rest import restore
from rushes.models.configs import WanVAEConfig
from rushes.models.wan_vae import DecodeState, WanVAE
from rushes.models.weights import open_store
from rushes.ops.layout import channels_last

NUM_LEVELS, BLOCKS_A_LEVEL = 3, 3
PREFIX = "decoder."
TRAINED_FOR = "latents_mean"
"""Key of a file's metadata: statistics of the VAE that it was distilled from, where the file tells."""


def conv(in_dim: int, out_dim: int, *, bias: bool = True) -> nn.Conv2d:
    """3x3, padded."""
    return nn.Conv2d(in_dim, out_dim, 3, padding=1, bias=bias)


class SoftClamp(nn.Module):
    """Latents to (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    """A residual block on a frame and the frame before it: x, before [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(2 * dim, dim), nn.ReLU(), conv(dim, dim), nn.ReLU(), conv(dim, dim))

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        out: Tensor = self.conv(torch.cat([x, before], dim=1))
        return F.relu(out + x)


class TimeGrow(nn.Module):
    """[N, C, H, W] -> [N * stride, C, H, W]: `stride` frames of each."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, c, h, w = x.shape
        grown: Tensor = self.conv(x)
        return grown.reshape(-1, c, h, w)


class TinyDecoder(nn.Module):
    """Normalised latents -> frames in [0, 1], not clamped.

    Args:
        z_dim: latent channels.
        widths: of the three levels, and of what comes after.
        time: frames that each level makes of one.
        doubles: whether each level doubles height and width.
        patch_size: pixels each way that the last convolution makes of a cell.
    """

    def __init__(
        self,
        *,
        z_dim: int,
        widths: Sequence[int],
        time: Sequence[int] = (1, 2, 2),
        doubles: Sequence[bool] = (True, True, True),
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        layers: list[nn.Module] = [SoftClamp(), conv(z_dim, widths[0]), nn.ReLU()]
        for level in range(NUM_LEVELS):
            layers += [MemoryBlock(widths[level]) for _ in range(BLOCKS_A_LEVEL)]
            layers += [nn.Upsample(scale_factor=2.0) if doubles[level] else nn.Identity()]
            layers += [TimeGrow(widths[level], time[level])]
            layers += [conv(widths[level], widths[level + 1], bias=False)]
        layers += [nn.ReLU(), conv(widths[-1], 3 * patch_size**2)]
        self.decoder = nn.Sequential(*layers)

    def forward(self, latents: Tensor, past: Sequence[Tensor] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[B, z, T', h, w] and the frame before of each memory block, None at the start of a clip ->
        [B, 3, 4 * T', H, W], and those for the next call."""
        batch = latents.shape[0]
        x = latents.movedim(1, 2).flatten(0, 1)
        befores = iter(past or ())
        kept: list[Tensor] = []
        for layer in self.decoder:
            if isinstance(layer, MemoryBlock):
                frames = torch.unflatten(x, 0, (batch, -1))
                before = torch.zeros_like(frames[:, :1]) if past is None else next(befores)
                shifted = torch.cat([before, frames[:, :-1]], dim=1)
                kept.append(frames[:, -1:].clone())
                x = layer(x, shifted.flatten(0, 1))
            else:
                x = layer(x)
        pixels = F.pixel_shuffle(x, self.patch_size)
        return torch.unflatten(pixels, 0, (batch, -1)).movedim(2, 1), tuple(kept)

    @property
    def frames_a_latent(self) -> int:
        """Frames that a latent frame becomes."""
        strides = (m.conv.out_channels // m.conv.in_channels for m in self.decoder if isinstance(m, TimeGrow))
        return int(torch.tensor(list(strides)).prod())


class TinyStep:
    """Implements `rushes.models.wan_vae.DecodeStep`: states are of its own."""

    takes_batches = True

    def __init__(self, decoder: TinyDecoder) -> None:
        self.decoder = decoder

    def __call__(self, vae: WanVAE, latent: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
        """See `DecodeStep`."""
        weight = next(self.decoder.parameters())
        frames, past = self.decoder(latent.to(weight.dtype), state.past if state else None)
        if state is None:
            frames = frames[:, :, -1:]
        return frames.clamp(0, 1) * 2 - 1, DecodeState(past=past)


def config_of(shapes: Mapping[str, Sequence[int]], config: WanVAEConfig) -> TinyDecoder:
    """The decoder whose weights have these shapes, for latents of that VAE. On the device in context.

    Raises:
        CheckpointError: the file is of no such decoder, or makes other frames than the VAE.
    """
    size = 3 + BLOCKS_A_LEVEL
    try:
        first = shapes[f"{PREFIX}1.weight"]
        convs = [shapes[f"{PREFIX}{2 + size * (level + 1)}.weight"] for level in range(NUM_LEVELS)]
        grows = [shapes[f"{PREFIX}{1 + size * (level + 1)}.conv.weight"] for level in range(NUM_LEVELS)]
        last = shapes[f"{PREFIX}{4 + size * NUM_LEVELS}.weight"]
    except KeyError as error:
        raise CheckpointError(f"not a tiny decoder in the layout of taehv: no tensor {error}") from error
    patch_size = round((last[0] / 3) ** 0.5)
    time = [grow[0] // grow[1] for grow in grows]
    doublings = (config.spatial_stride // patch_size).bit_length() - 1
    made = {"channels": first[1], "pixels a patch": last[0], "frames": time[0] * time[1] * time[2]}
    wanted = {"channels": config.z_dim, "pixels a patch": 3 * patch_size**2, "frames": config.temporal_stride}
    for name, value in made.items():
        if value != wanted[name]:
            raise CheckpointError(f"the tiny decoder has {value} {name}, the model's latents {wanted[name]}")
    if not 0 <= doublings <= NUM_LEVELS:
        raise CheckpointError(f"a VAE of stride {config.spatial_stride}: a tiny decoder has {8 * patch_size}")
    widths = [grows[0][1], *(shape[0] for shape in convs)]
    doubles = [level < doublings for level in range(NUM_LEVELS)]
    return TinyDecoder(z_dim=first[1], widths=widths, time=time, doubles=doubles, patch_size=patch_size)


def load_tiny_decoder(
    file: Path, config: WanVAEConfig, device: torch.device, dtype: torch.dtype
) -> TinyDecoder:
    """The decoder of a `.pth` or safetensors file, at rest or plain; an encoder in it is left out.

    Raises:
        CheckpointError: no such file, another layout, or made for another VAE.
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file")
    _check_trained_for(file, config)
    with open_store([file], torch.device("cpu")) as store:
        stored = {name: store.read(name) for name in store.headers if name.startswith(PREFIX)}
    state = {name: restore(stored, name) for name in _plain_names(stored)}
    with torch.device("meta"):
        decoder = config_of({name: tensor.shape for name, tensor in state.items()}, config)
    missing = decoder.state_dict().keys() ^ state.keys()
    if missing:
        raise CheckpointError(f"{file}: not a tiny decoder in the layout of taehv: {sorted(missing)[0]}")
    decoder.load_state_dict(state, assign=True)
    return channels_last(decoder.to(device, dtype)).eval().requires_grad_(False)


def _plain_names(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(".scale")]


def _check_trained_for(file: Path, config: WanVAEConfig) -> None:
    """Latents of two VAEs may have one shape, and the wrong decoder makes noise of them."""
    if file.suffix != ".safetensors":
        return
    with safe_open(str(file), framework="pt") as opened:
        told = (opened.metadata() or {}).get(TRAINED_FOR)
    if told is not None and told != statistics_of(config):
        raise CheckpointError(f"{file.name}: distilled from another VAE, whose latents have other statistics")


def statistics_of(config: WanVAEConfig) -> str:
    """The means of a VAE's latents, by which a file names it."""
    return " ".join(f"{mean:.5f}" for mean in config.latents_mean)
