"""Self-attention that leaves out most pairs of tokens far apart in time: less work, another picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.phase import MiddleSteps, PhaseKernel
from rushes.ops.attention_fp8 import check_attention_fp8
from rushes.ops.patch import Size3
from rushes.ops.radial_mask import RadialMask
from rushes.ops.sparse import BACKENDS, FLEX_BLOCK, Backend, radial_attention
from rushes.ops.sparse_fp8 import radial_attention_fp8
from rushes.ops.sparse_pages import PAGE, PAGE_FP8, QUERY_BLOCK, check_pages
from rushes.passes.base import ClipShape, Part
from rushes.passes.blocks import block_inputs, changed_blocks, check_share, put_kernel, transformer


@dataclass(frozen=True, slots=True)
class _Kernel:
    mask: RadialMask
    backend: Backend
    float8: bool

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, grid: Size3) -> Tensor:
        if self.float8:
            return radial_attention_fp8(q, k, v, grid, self.mask)
        return radial_attention(q, k, v, grid, self.mask, backend=self.backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseAttention:
    """Block-sparse self-attention under a static mask (`rushes.ops.sparse`), the first steps aside.

    Attributes:
        density: share of the pairs of tokens that a sparse layer computes.
        dense_share: share of the steps, at the start, in which every layer stays dense: at least one step,
            exactly one of at most 8; 0 for none.
        dense_blocks: blocks that stay dense at every step; -1 is the last.
        backend: of a GPU: "flex" (FlexAttention) or "fa3" (FlashAttention 3 on pages of keys; Hopper). Other
            devices run the reference, which makes all scores.
        float8: on float8 codes; with "fa3".
        block: tokens of a block of queries in the mask; None for the backend's own: 128, or 256 with "fa3".
            Small models take small blocks, which FlexAttention does not: the reference runs then.
        key_block: the same of keys; None for what the backend takes: `block`, and with "fa3" what its kernel
            takes at a time, 176 or 224.
        sink_frames: first latent frames that every query sees.
    """

    name: ClassVar[str] = "sparse-attention"
    part: ClassVar[Part] = "transformer"
    order: ClassVar[int] = 14

    density: float = 0.25
    dense_share: float = 0.025
    dense_blocks: tuple[int, ...] = (0,)
    backend: Backend = "flex"
    float8: bool = False
    block: int | None = None
    key_block: int | None = None
    sink_frames: int = 1

    def __post_init__(self) -> None:
        where = f"pass {self.name}"
        if self.backend not in BACKENDS:
            raise ConfigError(f"{where}: backend is {self.backend!r}; choose one of {', '.join(BACKENDS)}")
        if self.float8 and self.backend != "fa3":
            raise ConfigError(f"{where}: float8 needs backend fa3, not {self.backend}")
        check_share(where, "density", self.density, least=0, most=1)
        if not 0 <= self.dense_share < 1:
            raise ConfigError(f"{where}: dense_share is {self.dense_share}; needs to be from 0 to below 1")
        if self.backend == "flex" and self.key_block not in (None, self.mask.block):
            raise ConfigError(
                f"{where}: key_block {self.key_block} with block {self.mask.block}: flex takes one size;"
                " leave key_block out, or choose fa3"
            )
        if min(self.mask.block, self.mask.keys) < 1 or self.sink_frames < 0:
            raise ConfigError(
                f"{where}: block {self.mask.block}, key_block {self.mask.keys} and sink_frames"
                f" {self.sink_frames}; needs >= 1, >= 1 and >= 0"
            )

    @property
    def mask(self) -> RadialMask:
        """Which pairs the sparse layers compute."""
        block = self.block
        if block is None:
            block = QUERY_BLOCK if self.backend == "fa3" else FLEX_BLOCK
        keys = self.key_block
        if keys is None and self.backend == "fa3":
            keys = PAGE_FP8 if self.float8 else PAGE
        return RadialMask(density=self.density, block=block, key_block=keys, sink_frames=self.sink_frames)

    @property
    def _kernel(self) -> _Kernel:
        return _Kernel(self.mask, self.backend, self.float8)

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        where = f"pass {self.name}"
        wan = transformer(where, network)
        device, config = wan.head.weight.device, wan.config
        if self.backend == "fa3":
            check_pages(device, where)
        if self.float8:
            check_attention_fp8(device, wan.dtype, config.attention_head_dim, where)
        return put_kernel(
            where,
            wan,
            PhaseKernel(label=self.name, kernel=self._kernel),
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
        self._kernel(q, q, q, (frames, rows, columns))
        block(*block_inputs(wan, shape, phase))
