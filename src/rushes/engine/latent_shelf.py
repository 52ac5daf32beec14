"""Keeps latents of clips while they are denoised, and finds those that a clip goes on from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rushes.engine.latent_files import finished_name, num_leading, owner_of, read_mask, snapshot_name
from rushes.errors import ResumeError
from rushes.pipelines.model import Model
from rushes.sampling.levels import LEVELS, steps_at
from rushes.sampling.solvers import schedule_for
from rushes.stages.source import (
    Snapshot,
    SourceLatents,
    check_source,
    from_bytes,
    mask_tensor,
    to_bytes,
)
from rushes.trace import traced
from rushes.types import GenerateRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from rushes.engine.recorder import Blobs


class LatentShelf:
    """Snapshots of one model's clips.

    Args:
        blobs: where they lie; see `rushes.engine.latent_files`.
        levels: noise levels at which clips are kept; none to keep nothing. Of a model with two noise experts,
            those that the low-noise one runs are left out.
        first_frames: gives so many first frames of a finished job's video, None where it cannot; without it
            all frames of a clip are decoded, also those before the first that changes.
    """

    def __init__(
        self,
        blobs: Blobs,
        model: Model,
        levels: Sequence[float] = LEVELS,
        first_frames: Callable[[str, int], NDArray[np.uint8] | None] | None = None,
    ) -> None:
        self._blobs, self._model, self._levels = blobs, model, tuple(levels)
        self._first_frames = first_frames

    def steps(self, request: GenerateRequest) -> frozenset[int]:
        """Solver steps before which a clip's latents are kept: the first at or below each level."""
        if request.mode == "causal" or not self._levels:
            return frozenset()
        return steps_at(schedule_for(request.sampling), self._levels, self._model.boundary)

    @traced("snapshot_write")
    def keep(self, job_id: str, snapshot: Snapshot, request: GenerateRequest, tenant: str) -> tuple[str, int]:
        """Write a snapshot that lies on the host; its name and its bytes. Raises `StoreError`."""
        data = to_bytes(snapshot, request, identity=self._model.identity, tenant=tenant)
        name = snapshot_name(job_id, snapshot.step)
        self._blobs.write(name, data)
        return name, len(data)

    def keep_final(self, job_id: str, latents: Tensor, request: GenerateRequest, tenant: str) -> None:
        """Write what a clip was decoded from, for edits that keep a part of it. Raises `StoreError`."""
        num_steps = request.sampling.num_inference_steps
        snapshot = Snapshot(step=num_steps, sigma=0.0, latents=latents, clean=latents)
        data = to_bytes(snapshot, request, identity=self._model.identity, tenant=tenant)
        self._blobs.write(finished_name(job_id), data)

    def load(self, request: GenerateRequest, tenant: str) -> SourceLatents:
        """What a request that has a source goes on from.

        Raises:
            ResumeError: it cannot, the source, its mask or, under a mask, the finished latents of its clip
                being damaged, of another size, model or tenant.
            StoreError: a file is not there, or cannot be read.
        """
        source = request.source
        assert source is not None, "the request has a source"
        if request.mode == "causal":
            raise ResumeError("the causal mode goes on from no snapshot")
        shape = self._model.pipeline.latent_shape(request.video)
        identity = self._model.identity
        data = self._blobs.read(source.name)
        found = from_bytes(data, identity=identity, tenant=tenant, latent_shape=shape)
        check_source(source, found, schedule_for(request.sampling).sigmas)
        if source.mask is None:
            return found
        mask = read_mask(self._blobs.read(source.mask))
        # What the snapshot's step predicted is not yet what the clip became.
        job_id = owner_of(source.name) or ""
        data = self._blobs.read(finished_name(job_id))
        final = from_bytes(data, identity=identity, tenant=tenant, latent_shape=shape)
        lead = self._lead(job_id, num_leading(mask), request, shape[1])
        return replace(found, clean=final.clean, mask=mask_tensor(mask, shape), lead=lead)

    def _lead(
        self, job_id: str, num_latents: int, request: GenerateRequest, latent_frames: int
    ) -> NDArray[np.uint8] | None:
        """The pixel frames of a clip's first latent frames."""
        if self._first_frames is None or not 0 < num_latents < latent_frames:
            return None
        stride = (request.video.num_frames - 1) // (latent_frames - 1)
        return self._first_frames(job_id, stride * (num_latents - 1) + 1)
