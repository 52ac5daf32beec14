"""Latents in, frames out, one latent frame at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rushes.models.wan_vae import DecodeState, WanVAE, to_uint8
from rushes.stages.base import WARM_LATENTS, BatchKey, Job
from rushes.stages.host_frames import Arrival, send
from rushes.trace import span, traced
from rushes.types import Frames

log = logging.getLogger(__name__)


def to_numpy(video: Tensor) -> NDArray[np.uint8]:
    """Pixels [1, 3, T, H, W] in [-1, 1] as uint8 [T, H, W, 3]: `to_host` of one clip."""
    frames: NDArray[np.uint8] = to_host(video)[0]
    return frames


@traced("to_host")
def to_host(video: Tensor) -> NDArray[np.uint8]:
    """Pixels [B, 3, T, H, W] in [-1, 1] as uint8 [B, T, H, W, 3]; converted on their device, then copied. The
    host waits for the device."""
    return _sent(video).wait()


def _sent(video: Tensor) -> Arrival:
    with span("postprocess"):
        return send(to_uint8(video))


class VaeDecode:
    """Decodes one waiting latent frame of each job a unit; frames leave through `job.frames`, in order.

    Jobs of equal size share a forward, each with a state of its own, where the decode step takes batches: all
    that are at their clip's first latent, and all others. Then a job's frames may differ from those that it
    has alone by a rounding (one level of 255 in float32).

    Alone on a GPU a job is decoded one latent frame ahead, where nobody else waits for the stage: the device
    goes on while the host fetches frames and hands them on. The first frames of a job are there before the
    device is given more, and a unit ends when its own frames are there, whatever else it has queued. Who
    comes just then waits for that, and pays for it.

    Done means that nothing waits, so the stage may also stand before one that still makes latents.

    Args:
        vae: returns the VAE, loading it when first called.
        looks_ahead: False decodes one latent frame after another; None looks ahead on a GPU.
    """

    name = "vae_decode"
    runs_ahead = True

    def __init__(self, pipeline: str, vae: Callable[[], WanVAE], *, looks_ahead: bool | None = None) -> None:
        self._pipeline = pipeline
        self._vae = vae
        self._looks_ahead = looks_ahead

    @traced("load", stage="vae_decode")
    def prepare(self, job: Job) -> None:
        self._vae()

    def key(self, job: Job) -> BatchKey:
        return BatchKey(
            stage=self.name,
            pipeline=self._pipeline,
            latent_shape=job.latent_shape,
            is_start=job.decode is None,
            alone=id(job) if _begins_within(job) else None,
        )

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> None:
        vae = self._vae()
        if len(jobs) == 1 and (jobs[0].arriving is not None or self._may_run_ahead(jobs[0])):
            self._decode_ahead(vae, jobs[0])
            return
        rest = [job for job in jobs if job.arriving is None]
        for group in [rest] if vae.takes_batches else [[job] for job in rest]:
            if group:
                self._decode(vae, group)
        # Last, as this cannot fail: a batch that does is run again.
        for job in jobs:
            if job.arriving is not None:
                frames, job.arriving = job.arriving.wait(), None
                self._emit(job, frames[0])

    def done(self, job: Job) -> bool:
        return not job.wants_video or not job.num_waiting

    def units(self, job: Job) -> int:
        return job.num_latent_frames - job.num_lead

    def _decode(self, vae: WanVAE, jobs: Sequence[Job]) -> None:
        """One forward for jobs of one key; more for a job that begins within its clip, which is alone."""
        is_first = jobs[0].decode is None and not _begins_within(jobs[0])
        with span("vae_forward", is_first=is_first, latent=jobs[0].num_decoded, clips=len(jobs)):
            if _begins_within(jobs[0]):
                video, states = _decode_within(vae, jobs[0])
            else:
                video, states = _decode_together(vae, jobs)
        frames = to_host(video)
        # Nothing of a job changes before the frames are here: a unit that fails can be run again, and no
        # memory is given back that the device still reads.
        for job, state, own in zip(jobs, states, frames, strict=True):
            job.decode = state
            self._emit(job, own)

    def _may_run_ahead(self, job: Job) -> bool:
        """Not with a job's first frames: what waits for them should not wait for more."""
        if job.decode is None or job.num_waiting < 2 or job.is_crowded or not job.may_run_ahead:
            return False
        return job.latents[job.num_decoded].is_cuda if self._looks_ahead is None else self._looks_ahead

    def _decode_ahead(self, vae: WanVAE, job: Job) -> None:
        """The next frames, and the latent frame behind them queued."""
        if job.arriving is None:
            job.arriving, job.decode = _queued(vae, job, job.num_decoded)
        ahead = None
        if job.arriving.is_on_its_way and self._may_run_ahead(job):
            try:
                ahead = _queued(vae, job, job.num_decoded + 1)
            except torch.OutOfMemoryError:  # it will be decoded in a unit of its own, as all that follow
                log.warning("no memory to decode a latent frame ahead; this clip is decoded one by one")
                job.may_run_ahead = False
        with span("to_host"):
            frames = job.arriving.wait()
        job.arriving, job.decode = ahead or (None, job.decode)
        self._emit(job, frames[0])

    def _emit(self, job: Job, frames: NDArray[np.uint8]) -> None:
        job.frames.append(Frames(start=job.num_frames, frames=frames))
        job.num_frames += len(frames)
        job.num_decoded += 1
        if job.num_decoded == job.num_latent_frames:
            job.decode = None


def begin_with(job: Job, frames: NDArray[np.uint8]) -> None:
    """The pixel frames [1 + stride * n, H, W, 3] of a clip's first latent frames are known: only what follows
    is decoded."""
    stride = (job.request.video.num_frames - 1) // (job.num_latent_frames - 1)
    job.num_lead = job.num_decoded = 1 + (len(frames) - 1) // stride
    job.frames.append(Frames(start=0, frames=frames))
    job.num_frames = len(frames)


def _queued(vae: WanVAE, job: Job, number: int) -> tuple[Arrival, DecodeState]:
    """Give the device a latent frame whose past is `job.decode`: its frames, and the state after it."""
    with span("vae_forward", is_first=False, latent=number, clips=1):
        video, state = vae.decode_step(job.latents[number], job.decode)
    return _sent(video), state


def _begins_within(job: Job) -> bool:
    return job.decode is None and job.num_decoded > 0


def _decode_within(vae: WanVAE, job: Job) -> tuple[Tensor, list[DecodeState]]:
    """The next latent frame of a job whose decoder has no past: it is given that of a few latents before."""
    first = max(0, job.num_decoded - WARM_LATENTS)
    state: DecodeState | None = None
    for latent in job.latents[first : job.num_decoded]:
        _, state = vae.decode_step(latent, state)
    video, after = vae.decode_step(job.latents[job.num_decoded], state)
    return video, [after]


def _decode_together(vae: WanVAE, jobs: Sequence[Job]) -> tuple[Tensor, list[DecodeState]]:
    """The next latent frame of each job: frames [B, 3, T, H, W], and each job's own state."""
    latents = [job.latents[job.num_decoded] for job in jobs]
    if len(jobs) == 1:
        video, state = vae.decode_step(latents[0], jobs[0].decode)
        return video, [state]
    pasts = [job.decode for job in jobs if job.decode is not None]
    video, after = vae.decode_step(torch.cat(latents), DecodeState.stack(pasts) if pasts else None)
    return video, [after.clip(number) for number in range(len(jobs))]
