"""The VAE's decode step made faster: by kernels that suit any size, or by a compiler, size by size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from rushes.errors import ConfigError
from rushes.models.wan_vae import WanVAE
from rushes.ops.frame_window import KERNELS, window_kernels
from rushes.passes.base import Part
from rushes.passes.vae_compiled_step import BACKENDS, CompiledStep
from rushes.passes.vae_fused_step import FusedStep


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

    Nothing is compiled for a size, so every size, tile and batch is ready when the kernel is.

    Attributes:
        kernels: triton on CUDA; torch is the slow specification of the same, anywhere.
    """

    name: ClassVar[str] = "vae-fused"
    part: ClassVar[Part] = "vae"
    order: ClassVar[int] = 80

    kernels: str = "triton"

    def __post_init__(self) -> None:
        if self.kernels not in KERNELS:
            raise ConfigError(f"pass vae-fused: kernels {self.kernels!r} is none of {', '.join(KERNELS)}")

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        vae = plain_vae(self.name, network)
        vae.step = FusedStep(vae, window_kernels(self.kernels, vae.post_quant_conv.weight.device))
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
