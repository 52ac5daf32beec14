"""The specification of `rushes.reuse.index`: every dot product, and a sort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One that is near: the key it was inserted under, and its dot product with what was looked for."""

    key: int
    similarity: float


class PlainIndex:
    """Vectors by key. Slow, and plainly right."""

    def __init__(self) -> None:
        self._vectors: dict[int, Vectors] = {}

    def __len__(self) -> int:
        return len(self._vectors)

    def insert(self, keys: Sequence[int], vectors: Vectors) -> None:
        """Args: vectors: float32 [n, D]; a key that is there gets the new vector."""
        for key, vector in zip(keys, vectors, strict=True):
            self._vectors[key] = np.array(vector, np.float32)

    def remove(self, key: int) -> bool:
        """Whether it was there."""
        return self._vectors.pop(key, None) is not None

    def nearest(self, vector: Vectors, *, at_least: float, limit: int) -> Sequence[Neighbour]:
        """The nearest first, of equal ones the lower key; none below `at_least`, `limit` at most."""
        found = [
            Neighbour(key=key, similarity=float(one.astype(np.float64) @ vector.astype(np.float64)))
            for key, one in self._vectors.items()
        ]
        near = [one for one in found if one.similarity >= at_least]
        return sorted(near, key=lambda one: (-round(one.similarity, 6), one.key))[:limit]
