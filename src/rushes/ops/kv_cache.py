"""Keys and values of the latent frames that a causal stream has already seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

LayerKV = tuple[Tensor, Tensor]
"""Roped keys and values of one layer, each [B, N, H, D]."""


@dataclass(slots=True, kw_only=True)
class KVCache:
    """Held by the caller, one per stream; `KVCache()` is empty.

    Chunks are kept as they were written and joined when a layer needs them, so a write copies nothing that
    is already here and a forward that fails half way leaves the cache as it was. Bytes for each sample:
    2 * layers * tokens * dim * bytes per element (26.8 GB for A14B at 480p with 21 latent frames in
    bfloat16); while a layer runs, a joined copy of its own share beside it.

    Attributes:
        num_frames: latent frames seen so far, the position of the next one.
    """

    num_frames: int = 0
    _chunks: list[tuple[LayerKV, ...]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(x.nbytes for chunk in self._chunks for layer in chunk for x in layer)

    def past(self, layer: int) -> tuple[LayerKV, ...]:
        """The chunks of one layer, oldest first."""
        return tuple(chunk[layer] for chunk in self._chunks)

    def append(self, chunk: tuple[LayerKV, ...], num_frames: int) -> None:
        """Add `num_frames` latent frames: one (keys, values) for each layer."""
        self._chunks.append(chunk)
        self.num_frames += num_frames

    def copy(self) -> KVCache:
        """A cache that goes on from here alone; tensors are shared, since none is ever written to."""
        return KVCache(num_frames=self.num_frames, _chunks=list(self._chunks))


def join(past: tuple[LayerKV, ...], keys: Tensor, values: Tensor) -> LayerKV:
    """The past chunks and the new keys and values, joined along the tokens."""
    if not past:
        return keys, values
    return torch.cat([*(k for k, _ in past), keys], 1), torch.cat([*(v for _, v in past), values], 1)
