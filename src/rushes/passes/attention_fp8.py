"""Self-attention on float8 codes in the middle of a trajectory and of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.phase import MiddleSteps, PhaseKernel
from rushes.ops.attention_fp8 import attention_fp8, check_attention_fp8
from rushes.ops.patch import Size3
from rushes.passes.base import Part
from rushes.passes.blocks import put_kernel, transformer


@dataclass(frozen=True, slots=True)
class _Kernel:
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, grid: Size3) -> Tensor:
        return attention_fp8(q, k, v)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Attention:
    """Run self-attention on float8 codes, the first and last steps and blocks aside.

    Where sparse-attention is in the plan too, its steps and blocks are sparse, and not float8.

    Attributes:
        first_share: share of the steps, at the start, that stay in high precision: at least one step, exactly
            one of at most 8; 0 for none.
        last_share: the same for the end.
        keep_blocks: blocks that stay in high precision at every step; -1 is the last.
    """

    name: ClassVar[str] = "fp8-attention"
    part: ClassVar[Part] = "transformer"
    order: ClassVar[int] = 12

    first_share: float = 0.1
    last_share: float = 0.025
    keep_blocks: tuple[int, ...] = (0, -1)

    def __post_init__(self) -> None:
        if min(self.first_share, self.last_share) < 0 or self.first_share + self.last_share >= 1:
            raise ConfigError(
                f"pass {self.name}: first_share {self.first_share} and last_share {self.last_share}; need to"
                " be 0 or more, and below 1 together"
            )

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        where = f"pass {self.name}"
        wan = transformer(where, network)
        check_attention_fp8(wan.head.weight.device, wan.dtype, wan.config.attention_head_dim, where)
        return put_kernel(
            where,
            wan,
            PhaseKernel(label=self.name, kernel=_Kernel()),
            rule=MiddleSteps(label=self.name, first=self.first_share, last=self.last_share),
            keep_blocks=self.keep_blocks,
        )
