"""The VAE's decode step made faster: by kernels that suit any size, by a compiler, size by size, or by a
decoder of a hundredth of the work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

import torch
from torch import nn

from rushes.config import TOY_FOLDER
from rushes.errors import CheckpointError, ConfigError
from rushes.models.tiny_vae import TinyStep, load_tiny_decoder
from rushes.models.wan_vae import WanVAE
from rushes.ops.frame_window import KERNELS, window_kernels
from rushes.passes.base import ClipShape, Part
from rushes.passes.vae_compiled_step import BACKENDS, CompiledStep
from rushes.passes.vae_fused_step import Convs, FusedStep
from rushes.passes.vae_tiled_step import TiledStep


def plain_vae(name: str, network: nn.Module) -> WanVAE:
    """`network`, if it is a VAE whose decode step no pass has replaced. Raises `ConfigError`."""
    if not isinstance(network, WanVAE):
        raise ConfigError(f"pass {name}: a {type(network).__name__} is no WanVAE")
    if network.step is not None:
        taken = type(network.step).__name__
        raise ConfigError(f"pass {name}: the decode step is a {taken} already; list one of the two passes")
    return network


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeFused:
    """One kernel between two convolutions, and no doubled activation: `rushes.passes.vae_fused_step`.

    Nothing is compiled for a size: when the pass has been applied, every size, tile and batch is ready.

    Attributes:
        kernels: triton on CUDA; torch is the slow specification of the same, anywhere.
        convs: auto, own or cudnn: which layers our own convolution computes (`Convs`).
    """

    name: ClassVar[str] = "vae-fused"
    part: ClassVar[Part] = "vae"
    order: ClassVar[int] = 80

    kernels: str = "triton"
    convs: Convs = "auto"

    def __post_init__(self) -> None:
        if self.kernels not in KERNELS:
            raise ConfigError(f"pass vae-fused: kernels {self.kernels!r} is none of {', '.join(KERNELS)}")
        if self.convs not in get_args(Convs):
            raise ConfigError(f"pass vae-fused: convs {self.convs!r} is none of {', '.join(get_args(Convs))}")

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        vae = plain_vae(self.name, network)
        weight = vae.post_quant_conv.weight
        device = weight.device
        vae.step = FusedStep(vae, window_kernels(self.kernels, device, weight.dtype), self.convs)
        # The kernel's variants differ by layer, not by size: two latent frames of any size build them all.
        with torch.no_grad():
            vae.decode(torch.zeros(1, vae.config.z_dim, 2, 2, 2, device=device))
        return vae


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeCompile:
    """`torch.compile` of the plain step: one graph for a clip's first latent, one for the others, per size.

    Attributes:
        backend: inductor; eager traces only, for tests.
    """

    name: ClassVar[str] = "vae-compile"
    part: ClassVar[Part] = "vae"
    order: ClassVar[int] = 90

    backend: str = "inductor"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigError(f"pass vae-compile: backend {self.backend!r} is none of {', '.join(BACKENDS)}")

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        vae = plain_vae(self.name, network)
        vae.step = CompiledStep(vae, self.backend)
        return vae

    @torch.no_grad()
    def warm_up(self, network: nn.Module, shape: ClipShape) -> None:
        """See `WarmsUp`. Two latent frames make both graphs of a size; clips are decoded one by one."""
        assert isinstance(network, WanVAE), "`apply` has let another network pass"
        channels, frames, rows, columns = shape.latent_shape
        device = network.post_quant_conv.weight.device
        network.decode(torch.zeros(1, channels, min(2, frames), rows, columns, device=device))


TINY_TOY = "toy"
TINY_TOY_FILE = TOY_FOLDER / "tiny_vae" / "tiny_decoder.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeTiny:
    """Decode by a tiny decoder: another picture, near that of the VAE. Encoding stays the VAE's.

    Attributes:
        weights: a file in the layout of madebyollin/taehv (`taew2_1.pth`, `taew2_2.pth`, or the same as
            safetensors), or "toy", the one that is shipped for the toy model.
    """

    name: ClassVar[str] = "vae-tiny"
    part: ClassVar[Part] = "vae"
    order: ClassVar[int] = 80

    weights: str = TINY_TOY

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        vae = plain_vae(self.name, network)
        file = self.files()[0]
        weight = vae.post_quant_conv.weight
        try:
            decoder = load_tiny_decoder(file, vae.config, weight.device, weight.dtype)
        except CheckpointError as error:
            raise ConfigError(f"pass vae-tiny: {error}") from error
        vae.step = TinyStep(decoder)
        return vae

    def files(self) -> tuple[Path, ...]:
        """See `ReadsFiles`."""
        return (TINY_TOY_FILE if self.weights == TINY_TOY else Path(self.weights),)


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeTiling:
    """Decode in equal tiles that overlap, by whatever step the passes before it left.

    One after another they need less memory at a time, and more work: cells that overlap are decoded twice.
    Together they are one batch.

    Attributes:
        tile: rows and columns of latent cells; the default makes four tiles of 480p.
        overlap: cells that neighbours share at least, blended in pixels.
        together: all tiles as one batch.
    """

    name: ClassVar[str] = "vae-tiling"
    part: ClassVar[Part] = "vae"
    order: ClassVar[int] = 95

    tile: tuple[int, int] = (34, 56)
    overlap: int = 8
    together: bool = False

    def __post_init__(self) -> None:
        if len(self.tile) != 2 or not 0 < self.overlap < min(self.tile):
            raise ConfigError(
                f"pass vae-tiling: overlap {self.overlap} of tiles of {self.tile}; it is at least 1 cell and "
                "less than a tile's rows and columns"
            )

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        if not isinstance(network, WanVAE):
            raise ConfigError(f"pass vae-tiling: a {type(network).__name__} is no WanVAE")
        inner = network.step or WanVAE.plain_step
        network.step = TiledStep(inner, self.tile, self.overlap, together=self.together)
        return network
