"""Latents of an earlier clip that means the same: found, checked, and turned into where to go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rushes.errors import StoreError
from rushes.models.prompts import clean_prompt
from rushes.pipelines.rules import load_rules
from rushes.reuse.entries import Snapshot
from rushes.reuse.keys import compatibility_key
from rushes.reuse.latent_cache import THRESHOLD, LatentCache, Miss
from rushes.reuse.levels import known_schedule, lowest_kept, source_at
from rushes.reuse.staircase import SEEDED_SIGMA, STAIRCASE, Staircase, pick_snapshot
from rushes.reuse.synonyms import NO_SYNONYMS, Synonyms
from rushes.stores.disk import BlobFolder
from rushes.types import GenerateRequest, LatentSource


class Encoder(Protocol):
    """`rushes.reuse.encoder.SentenceEncoder`."""

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """float32 [n, 384], each of length 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where a request may go on.

    Attributes:
        job_id: whose latents they are.
        sigma: noise level of the first step that is run.
        saved_s: device seconds of the steps that are not.
    """

    source: LatentSource
    job_id: str
    sigma: float
    similarity: float
    saved_s: float


class LatentReuse:
    """Looks latents up, and takes new ones in. Safe for threads.

    Args:
        cache: closed by whoever made it.
        latents: where workers put snapshots.
        seeded_sigma: noise level down to which those may go who name a seed; 0 for as far as all others.
        threshold: cosine below which two prompts are never taken for alike.
        synonyms: of a pipeline: prompts are compared in the words of its list.
    """

    def __init__(
        self,
        cache: LatentCache,
        encoder: Encoder,
        latents: BlobFolder,
        *,
        staircase: Staircase = STAIRCASE,
        seeded_sigma: float = SEEDED_SIGMA,
        threshold: float = THRESHOLD,
        synonyms: Callable[[str], Synonyms] = lambda pipeline: NO_SYNONYMS,
    ) -> None:
        self._synonyms = synonyms
        self.cache, self._encoder, self._latents = cache, encoder, latents
        self._staircase, self._seeded_sigma, self._threshold = staircase, seeded_sigma, threshold

    def find(self, request: GenerateRequest, *, identity: str, tenant: str, has_seed: bool) -> Found | str:
        """Where the request may go on, or in a word or two why nowhere. Never raises for a store or a file
        that is away: that is a miss.

        Args:
            has_seed: the caller named the seed, so the latents are noised again with it, where it can still
                make a difference: not below `seeded_sigma`.
        """
        schedule = known_schedule(request.sampling)
        if request.mode != "full" or schedule is None:
            return "mode" if request.mode != "full" else "solver"
        prompt, compat = self._compared(request, identity, tenant)
        hit = self.cache.lookup(self._encoder.encode([prompt])[0], compat, prompt, self._threshold)
        if isinstance(hit, Miss):
            return hit.reason
        boundary = load_rules(request.pipeline).boundary
        lowest = self._staircase.lowest_sigma(hit.similarity, boundary=boundary)
        if lowest is not None:
            lowest = max(lowest, self._seeded_sigma) if has_seed else lowest
            lowest = lowest_kept(schedule.sigmas, lowest, boundary)
        snapshot = None if lowest is None else pick_snapshot(hit.entry.snapshots, lowest)
        if snapshot is None:
            return "level"
        if not is_there(self._latents, snapshot):
            self.forget(hit.entry.id)
            return "missing"
        source = source_at(snapshot, schedule.sigmas, is_renoised=has_seed)
        if source is None:
            return "level"
        return Found(
            source=source,
            job_id=hit.entry.id,
            sigma=schedule.sigmas[source.step],
            similarity=hit.similarity,
            saved_s=hit.entry.saved_s * source.step / len(schedule),
        )

    def add(
        self,
        job_id: str,
        request: GenerateRequest,
        *,
        identity: str,
        tenant: str,
        snapshots: Sequence[Snapshot],
        saved_s: float,
    ) -> None:
        """Take a clip's snapshots in. Raises `StoreError`."""
        prompt, compat = self._compared(request, identity, tenant)
        self.cache.insert(
            self._encoder.encode([prompt])[0],
            compat,
            prompt,
            id=job_id,
            tenant=tenant,
            snapshots=snapshots,
            saved_s=saved_s,
        )

    def _compared(self, request: GenerateRequest, identity: str, tenant: str) -> tuple[str, str]:
        """The prompt as it is compared, and the key within which it is."""
        synonyms = self._synonyms(request.pipeline)
        compat = compatibility_key(request, identity=identity, tenant=tenant, synonyms=synonyms.fingerprint)
        return synonyms.canonical(clean_prompt(request.prompt)), compat

    def forget(self, job_id: str) -> None:
        """A job and its files are gone. Never raises: what stays is a miss, and goes when it is next seen."""
        try:
            self.cache.remove(job_id)
        except StoreError:
            self.cache.counts.num_errors += 1


def is_there(latents: BlobFolder, snapshot: Snapshot) -> bool:
    """Whether the file has its size; whether its bytes are right is for the worker to see."""
    try:
        return latents.path(snapshot.name).stat().st_size == snapshot.nbytes
    except (OSError, StoreError):
        return False
