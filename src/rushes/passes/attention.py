"""The attention kernel, pinned: what torch would pick by itself depends on version, device and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from rushes.errors import ConfigError
from rushes.models.wan import Wan
from rushes.models.wan_blocks import CrossAttention, SelfAttention
from rushes.ops.attention import attention_kernel, check_backend
from rushes.passes.base import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Run every attention of the transformer in one kernel.

    Attributes:
        backend: of self-attention, a name of `rushes.ops.attention.BACKENDS`.
        cross_backend: of cross-attention; None for the same.
    """

    name: ClassVar[str] = "attention"
    part: ClassVar[Part] = "transformer"
    order: ClassVar[int] = 10

    backend: str
    cross_backend: str | None = None

    def __post_init__(self) -> None:
        attention_kernel(self.backend)
        attention_kernel(self.cross_backend or self.backend)

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        if not isinstance(network, Wan):
            raise ConfigError(f"pass attention: a {type(network).__name__} has no attention kernel to pick")
        device, dtype = network.head.weight.device, network.dtype
        for backend in dict.fromkeys((self.backend, self.cross_backend or self.backend)):
            check_backend(backend, device, dtype, "pass attention")
        for module in network.modules():
            if isinstance(module, SelfAttention):
                module.backend = self.backend
            elif isinstance(module, CrossAttention):
                module.backend = self.cross_backend or self.backend
        return network
