"""What tests of the latent cache share: vectors with a chosen cosine, and an entry in one call."""

from __future__ import annotations

import numpy as np

from rushes.reuse.encoder import DIM
from rushes.reuse.entries import Snapshot
from rushes.reuse.latent_cache import LatentCache
from rushes.reuse.plain_index import Vectors


def vector(angle: float = 0.0, axis: int = 0) -> Vectors:
    """Of length 1; two of one axis have the cosine of the difference of their angles."""
    found = np.zeros(DIM, np.float32)
    found[2 * axis], found[2 * axis + 1] = np.cos(angle), np.sin(angle)
    return found


def snapshots(id: str, nbytes: int = 10) -> list[Snapshot]:
    """Two noise levels of one clip."""
    return [
        Snapshot(name=f"{id}.2.latents", sigma=0.7, step=2, nbytes=nbytes),
        Snapshot(name=f"{id}.1.latents", sigma=0.9, step=1, nbytes=nbytes),
    ]


def add(
    cache: LatentCache,
    id: str,
    prompt: str = "a dog runs",
    *,
    at: Vectors | None = None,
    compat: str = "k",
    tenant: str = "acme",
    nbytes: int = 10,
    saved_s: float = 1.0,
) -> None:
    cache.insert(
        vector() if at is None else at,
        compat,
        prompt,
        id=id,
        tenant=tenant,
        snapshots=snapshots(id, nbytes),
        saved_s=saved_s,
    )
