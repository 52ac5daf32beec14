"""Linear attention in place of softmax attention: for networks trained with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.phase import PhaseKernel
from rushes.ops.linear_attention import feature_map, linear_attention
from rushes.ops.patch import Size3
from rushes.passes.base import Part
from rushes.passes.blocks import put_kernel


@dataclass(frozen=True, slots=True)
class _Kernel:
    feature: str

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, grid: Size3) -> Tensor:
        return linear_attention(q, k, v, feature=self.feature)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """Run self-attention as `rushes.ops.linear_attention`, at every step.

    It needs training: a network that was trained with softmax makes noise with it.

    Attributes:
        needs_training: must be True: whoever writes the plan knows that this network was trained with it, or
            wants its speed only.
        feature: a name of `rushes.ops.linear_attention.FEATURES`.
        keep_blocks: blocks that keep softmax; -1 is the last.
    """

    name: ClassVar[str] = "linear-attention"
    part: ClassVar[Part] = "transformer"
    order: ClassVar[int] = 16

    needs_training: bool = False
    feature: str = "elu"
    keep_blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        feature_map(self.feature)
        if self.needs_training is not True:
            raise ConfigError(
                f"pass {self.name}: a network trained with softmax attention makes noise with it; set"
                " needs_training to true if this one was trained with it, or choose sparse-attention"
            )

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        one = PhaseKernel(label=None, kernel=_Kernel(self.feature))
        return put_kernel(f"pass {self.name}", network, one, rule=None, keep_blocks=self.keep_blocks)
