"""The denoising stage of causal clips: one solver step of one latent frame after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rushes.models.wan import Wan
from rushes.ops.kv_cache import KVCache
from rushes.sampling.guidance import cfg
from rushes.sampling.step_cache import Plan
from rushes.stages.base import BatchKey, CausalState, DenoiseState, Job
from rushes.stages.denoise import BRANCHES, DenoiseStage, advance, counted, start, texts_of, timesteps_of
from rushes.trace import span


def start_causal(job: Job, device: torch.device) -> CausalState:
    """The state of a causal job before the first step of a latent frame; the caches are still empty."""
    begin = start(job, device)
    caches = tuple(KVCache() for _ in range(1 + job.is_guided))
    return CausalState(noise=begin.latents, start=begin, chunk=None, caches=caches)


class DenoiseCausal(DenoiseStage):
    """Denoises latent frame by latent frame, each seeing the clean frames before it through a KV cache.

    One unit is one solver step of the frame in work. Before a frame's first step one more pass at t = 0
    writes the clean keys and values of the frame before it, which has left for decoding by then. For networks
    trained block-causally, with one noise expert. Jobs do not share a forward: their caches differ in length.
    """

    def key(self, job: Job) -> BatchKey:
        return BatchKey(
            stage=self.name,
            pipeline=self._pipeline,
            latent_shape=job.latent_shape,
            expert="high",
            lora=job.lora,
            alone=id(job),
        )

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._step(job)

    def units(self, job: Job) -> int:
        return job.num_latent_frames * job.request.sampling.num_inference_steps

    def _step(self, job: Job) -> None:
        state = self._state(job)
        self._write_caches(job, state)
        chunk = state.chunk
        if chunk is None:
            frame = state.noise[:, :, job.num_denoised : job.num_denoised + 1]
            chunk = replace(state.start, latents=frame.contiguous())
        velocities = self._forward(job, state.caches, chunk)
        velocity = velocities[0]
        if len(velocities) == 2:
            velocity = cfg(velocity, velocities[1], job.guidance["high"])
        num_before = job.num_denoised * len(chunk.timesteps)
        state.chunk = advance(chunk, velocity, job.request.sampling, num_before=num_before)
        job.forwards = counted(
            job.forwards, Plan(runs_conditional=True, runs_unconditional=len(velocities) == 2)
        )
        if state.chunk.is_finished:
            self._finish_frame(job, state, state.chunk.latents)

    def _state(self, job: Job) -> CausalState:
        if job.denoise is None:
            job.denoise = start_causal(job, self._device)
        assert isinstance(job.denoise, CausalState)
        return job.denoise

    def _finish_frame(self, job: Job, state: CausalState, latents: Tensor) -> None:
        job.latents.append(latents)
        state.chunk = None
        if job.is_denoised:
            job.denoise = job.text = None

    def _write_caches(self, job: Job, state: CausalState) -> None:
        """Show the network the finished frames that its caches lack: as a rule the latest one, after a resume
        all of them, and those whose pass failed."""
        for text, cache in zip(texts_of(job), state.caches, strict=True):
            for latents in job.latents[cache.num_frames :]:
                wan, timesteps = self._network(job, 0.0)
                context = text.context("high", wan, job.lora)
                with span("forward", is_cache_write=True):
                    wan(latents, timesteps, context, cache=cache, write_cache=True)

    def _forward(self, job: Job, caches: Sequence[KVCache], chunk: DenoiseState) -> list[Tensor]:
        """Velocities of the branches, each of which has its own cache."""
        wan, timesteps = self._network(job, chunk.timestep)
        velocities = []
        for branch, text, cache in zip(BRANCHES, texts_of(job), caches, strict=False):
            context = text.context("high", wan, job.lora)
            with span("forward", branch=branch):
                velocities.append(wan(chunk.latents, timesteps, context, cache=cache))
        return velocities

    def _network(self, job: Job, timestep: float) -> tuple[Wan, Tensor]:
        return self._experts(job.lora).select(timestep), timesteps_of([timestep], self._device)
