"""What a pass is: one change of one network before it serves, removable alone. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from rushes.registry import Registry

if TYPE_CHECKING:
    from torch import nn

Part = Literal["transformer", "vae"]

PASSES = Registry(
    "pass",
    {
        "attention": "rushes.passes.attention:Attention",
    },
    group="rushes.passes",
)
"""Every pass by its name."""


class Pass(Protocol):
    """A frozen, slotted, keyword-only dataclass: its fields are what a plan file may set.

    Attributes:
        name: in plan files, reports and errors.
        part: the network that it changes; with two noise experts, both.
        order: passes of a plan are applied by rising order, whatever order they are listed in: 10 kernels,
            20 other weights, 80 layouts, 90 compilation.

    A field that is out of range stops with `ConfigError` when the pass is made; a network that it cannot
    change (another architecture, device or dtype) when it is applied. No pass ends as a silent no-op.
    """

    name: ClassVar[str]
    part: ClassVar[Part]
    order: ClassVar[int]

    def apply(self, network: nn.Module) -> nn.Module:
        """The network changed: in place or a new one; what was given is not used any more."""
        ...


def settings_of(one: Pass) -> Mapping[str, Any]:
    """The fields of a pass, as a plan file writes them."""
    return MappingProxyType(asdict(one))  # type: ignore[call-overload]  # every pass is a dataclass
