"""Self-attention that leaves out most pairs of tokens far apart in time: less work, another picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.phase import MiddleSteps, PhaseKernel
from rushes.ops.patch import Size3
from rushes.ops.sparse import KERNEL_BLOCK, RadialMask, radial_attention
from rushes.passes.base import ClipShape, Part
from rushes.passes.blocks import block_inputs, changed_blocks, check_share, put_kernel, transformer


@dataclass(frozen=True, slots=True)
class _Kernel:
    mask: RadialMask

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, grid: Size3) -> Tensor:
        return radial_attention(q, k, v, grid, self.mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseAttention:
    """Block-sparse self-attention under a static mask (`rushes.ops.sparse`), the first steps aside.

    Attributes:
        density: share of the pairs of tokens that a sparse layer computes.
        dense_share: share of the steps, at the start, in which every layer stays dense: at least one step,
            exactly one of at most 8; 0 for none.
        dense_blocks: blocks that stay dense at every step; -1 is the last.
        block: tokens of a block of the mask. On a GPU multiples of 128 run as FlexAttention; other sizes,
            for small models, and other devices run the reference, which makes all scores.
        sink_frames: first latent frames that every query sees.
    """

    name: ClassVar[str] = "sparse-attention"
    part: ClassVar[Part] = "transformer"
    order: ClassVar[int] = 14

    density: float = 0.25
    dense_share: float = 0.025
    dense_blocks: tuple[int, ...] = (0,)
    block: int = KERNEL_BLOCK
    sink_frames: int = 1

    def __post_init__(self) -> None:
        where = f"pass {self.name}"
        check_share(where, "density", self.density, least=0, most=1)
        if not 0 <= self.dense_share < 1:
            raise ConfigError(f"{where}: dense_share is {self.dense_share}; needs to be from 0 to below 1")
        if self.block < 1 or self.sink_frames < 0:
            raise ConfigError(
                f"{where}: block {self.block} and sink_frames {self.sink_frames}; needs >= 1 and >= 0"
            )

    @property
    def mask(self) -> RadialMask:
        """Which pairs the sparse layers compute."""
        return RadialMask(density=self.density, block=self.block, sink_frames=self.sink_frames)

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        return put_kernel(
            f"pass {self.name}",
            network,
            PhaseKernel(label=self.name, kernel=_Kernel(self.mask)),
            rule=MiddleSteps(label=self.name, first=self.dense_share),
            keep_blocks=self.dense_blocks,
        )

    @torch.no_grad()
    def warm_up(self, network: nn.Module, shape: ClipShape) -> None:
        """See `WarmsUp`. On a GPU the kernel is compiled for each grid, by itself and then within a block."""
        wan = transformer(f"pass {self.name}", network)
        if wan.head.weight.device.type != "cuda":
            return
        _, block = changed_blocks(f"pass {self.name}", wan, self.dense_blocks)[0]
        phase = next(one for one in wan.phases if self.name in one)
        config = wan.config
        sizes = zip(shape.latent_shape[1:], config.patch_size, strict=True)
        frames, rows, columns = (length // patch for length, patch in sizes)
        heads = (config.num_attention_heads, config.attention_head_dim)
        q = torch.zeros(
            shape.batch,
            frames * rows * columns,
            *heads,
            device=wan.head.weight.device,
            dtype=wan.dtype,
        )
        radial_attention(q, q, q, (frames, rows, columns), self.mask)
        block(*block_inputs(wan, shape, phase))
