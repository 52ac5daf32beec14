"""A LoRA fused into the weights, a file for each noise expert: how few-step distillations are published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from rushes.errors import ConfigError
from rushes.models.lora import fuse, read_lora
from rushes.models.wan import Wan
from rushes.passes.base import Expert, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Add LoRA files to the transformer's weights: in float32, then rounded once to their dtype.

    Attributes:
        high: safetensors file for the high-noise expert, or for the only network of a model.
        low: the same for the low-noise expert, where there is one. See `rushes.models.lora` for the names.
        scale: of both; not 0.
    """

    name: ClassVar[str] = "lora"
    part: ClassVar[Part] = "transformer"
    order: ClassVar[int] = 5

    high: str
    low: str | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale == 0:
            raise ConfigError("pass lora: scale is 0, so nothing would change; needs another number")
        for file in self.files():
            if not file.is_file():
                raise ConfigError(f"pass lora: there is no file {file}")

    def files(self) -> tuple[Path, ...]:
        """See `ReadsFiles`."""
        return tuple(Path(name) for name in (self.high, self.low) if name is not None)

    def for_expert(self, expert: Expert) -> Fused:
        """See `PerExpert`."""
        if expert == "low" and self.low is None:
            raise ConfigError("pass lora: this model has two noise experts; give the file of the low one too")
        if expert == "only" and self.low is not None:
            raise ConfigError(f"pass lora: this model has one network; {self.low} is for a low-noise expert")
        return Fused(file=self.low if expert == "low" and self.low else self.high, scale=self.scale)

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        return self.for_expert("only").apply(network)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """What `Lora` is for one network."""

    name: ClassVar[str] = Lora.name
    part: ClassVar[Part] = Lora.part
    order: ClassVar[int] = Lora.order

    file: str
    scale: float

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        if not isinstance(network, Wan):
            raise ConfigError(f"pass lora: a {type(network).__name__} takes no LoRA")
        fuse(network, read_lora(Path(self.file)), scale=self.scale)
        return network
