"""Latents in, frames out, one latent frame at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rushes.models.wan_vae import WanVAE, to_uint8
from rushes.stages.base import BatchKey, Job
from rushes.trace import span, traced
from rushes.types import Frames


@traced("to_host")
def to_numpy(video: Tensor) -> NDArray[np.uint8]:
    """Pixels [1, 3, T, H, W] in [-1, 1] as uint8 [T, H, W, 3]; converted on their device, then copied."""
    with span("postprocess"):
        pixels = to_uint8(video)[0].contiguous()
    # .cpu() waits for the device: these frames are about to leave the process.
    frames: NDArray[np.uint8] = pixels.cpu().numpy()
    return frames


class VaeDecode:
    """Decodes one waiting latent frame of each job a unit; frames leave through `job.frames`, in order.

    Done means that nothing waits, so the stage may also stand before one that still makes latents.

    Args:
        vae: returns the VAE, loading it when first called.
    """

    name = "vae_decode"

    def __init__(self, pipeline: str, vae: Callable[[], WanVAE]) -> None:
        self._pipeline = pipeline
        self._vae = vae

    @traced("load", stage="vae_decode")
    def prepare(self, job: Job) -> None:
        self._vae()

    def key(self, job: Job) -> BatchKey:
        return BatchKey(stage=self.name, pipeline=self._pipeline, latent_shape=job.latent_shape)

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> None:
        vae = self._vae()
        for job in jobs:
            with span("vae_forward", is_first=job.decode is None, latent=job.num_decoded):
                video, state = vae.decode_step(job.latents[job.num_decoded], job.decode)
            frames = to_numpy(video)
            # Nothing of the job changes before the frames are here: a unit that fails can be run again, and
            # no memory is given back that the device still reads.
            job.decode = state
            self._emit(job, frames)

    def done(self, job: Job) -> bool:
        return not job.wants_video or not job.num_waiting

    def units(self, job: Job) -> int:
        return job.num_latent_frames

    def _emit(self, job: Job, frames: NDArray[np.uint8]) -> None:
        job.frames.append(Frames(start=job.num_frames, frames=frames))
        job.num_frames += len(frames)
        job.num_decoded += 1
        if job.num_decoded == job.num_latent_frames:
            job.decode = None
