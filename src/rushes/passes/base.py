"""What a pass is: one change of one network before it serves, removable alone. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from rushes.registry import Registry

if TYPE_CHECKING:
    from torch import nn

Part = Literal["transformer", "vae"]
Expert = Literal["high", "low", "only"]
"""Of two transformers by noise level, or the only one of a model."""

PASSES = Registry(
    "pass",
    {
        "attention": "rushes.passes.attention:Attention",
        "lora": "rushes.passes.lora:Lora",
        "backend": "rushes.passes.backend:Backend",
        "compile": "rushes.passes.compile:Compile",
        "packed": "rushes.passes.packed:Packed",
        "vae-backend": "rushes.passes.backend:VaeBackend",
        "vae-compile": "rushes.passes.vae:VaeCompile",
        "vae-fused": "rushes.passes.vae:VaeFused",
        "vae-tiling": "rushes.passes.vae:VaeTiling",
        "vae-tiny": "rushes.passes.vae:VaeTiny",
        "fp8-attention": "rushes.passes.attention_fp8:Fp8Attention",
        "fp8-linears": "rushes.passes.fp8:Fp8Linears",
        "int8-linears": "rushes.passes.int8:Int8Linears",
        "linear-attention": "rushes.passes.attention_linear:LinearAttention",
        "sparse-attention": "rushes.passes.sparse:SparseAttention",
    },
    group="rushes.passes",
)
"""Every pass by its name."""


class Pass(Protocol):
    """A frozen, slotted, keyword-only dataclass: its fields are what a plan file may set.

    Attributes:
        name: in plan files, reports and errors.
        part: the network that it changes; with two noise experts, both.
        order: passes of a plan are applied by rising order, whatever order they are listed in: 5 weights
            of another training, 10 kernels, 20 other weights, 80 layouts, 90 compilation, 91 another
            engine, 95 around a
            compiled step.

    A field that is out of range stops with `ConfigError` when the pass is made; a network that it cannot
    change (another architecture, device or dtype) when it is applied. No pass ends as a silent no-op.
    """

    name: ClassVar[str]
    part: ClassVar[Part]
    order: ClassVar[int]

    def apply(self, network: nn.Module) -> nn.Module:
        """The network changed: in place or a new one; what was given is not used any more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipShape:
    """What decides the shapes of every tensor in a clip's forwards.

    Attributes:
        latent_shape: (C, T, H, W) of one clip's latents.
        text_len: text tokens.
        batch: clips in one forward.
    """

    latent_shape: tuple[int, int, int, int]
    text_len: int
    batch: int = 1


@runtime_checkable
class PerExpert(Protocol):
    """A pass that does something else to each noise expert."""

    def for_expert(self, expert: Expert) -> Pass:
        """What it is for this one. Raises `ConfigError` when it has nothing for it."""
        ...


@runtime_checkable
class ReadsFiles(Protocol):
    """A pass that depends on more than its fields."""

    def files(self) -> Sequence[Path]:
        """What it reads; a model's identity follows their contents."""
        ...


@runtime_checkable
class WarmsUp(Protocol):
    """A pass whose work is done at the first call of a shape: it can be made to do it before."""

    def warm_up(self, network: nn.Module, shape: ClipShape) -> None:
        """Have everything ready that a clip of this shape runs in `network`, which `apply` returned. Holds no
        more memory afterwards than before."""
        ...


def settings_of(one: Pass) -> Mapping[str, Any]:
    """The fields of a pass, as a plan file writes them."""
    return MappingProxyType(asdict(one))  # type: ignore[call-overload]  # every pass is a dataclass
