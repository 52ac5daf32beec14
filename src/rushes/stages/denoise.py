"""The denoising stages: one solver step of a whole clip a unit, or of one latent frame after another.

The path is a rectified flow: x = (1 - sigma) * clean + sigma * noise, velocity v = noise - clean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rushes.models.expert_pair import ExpertPair
from rushes.models.wan import TextContext
from rushes.ops.kv_cache import KVCache
from rushes.sampling.flow import predict_clean
from rushes.sampling.guidance import cfg, is_high_noise
from rushes.sampling.noise import initial_noise, step_generator
from rushes.sampling.solvers import load_solver, schedule_for
from rushes.stages.base import BatchKey, CausalState, DenoiseState, Job, NoiseExpert
from rushes.stages.text_encode import EncodedText
from rushes.types import SamplingParams

Experts = Callable[[str | None], ExpertPair]
"""The network or networks with a LoRA fused into them, or without one."""


def start(job: Job, device: torch.device) -> DenoiseState:
    """The state of a job before its first step: the given latents, or noise from the seed."""
    sampling = job.request.sampling
    latents = job.given.latents
    if latents is None:
        latents = initial_noise((1, *job.latent_shape), sampling.seed)
    schedule = schedule_for(sampling)
    return DenoiseState(
        latents=latents.to(device, torch.float32), sigmas=schedule.sigmas, timesteps=schedule.timesteps
    )


def advance(
    state: DenoiseState, velocity: Tensor, sampling: SamplingParams, *, num_before: int = 0
) -> DenoiseState:
    """One solver step.

    Args:
        num_before: steps that the job took before this trajectory began. They count in choosing the noise
            that a stochastic solver adds, so that no latent frame of a causal clip repeats another's.
    """
    latents, history = load_solver(sampling.solver).step(
        velocity,
        state.latents,
        state.sigmas,
        state.step,
        state.history,
        step_generator(sampling.seed, num_before + state.step),
    )
    return replace(state, latents=latents, history=history, step=state.step + 1)


class _DenoiseStage:
    """What both denoising stages are made of.

    Args:
        experts: returns the network or networks, loading them when first called with a LoRA's name or None.
    """

    name = "denoise"

    def __init__(self, pipeline: str, experts: Experts, device: torch.device) -> None:
        self._pipeline = pipeline
        self._experts = experts
        self._device = device

    def prepare(self, job: Job) -> None:
        self._experts(job.lora)

    def done(self, job: Job) -> bool:
        return job.is_denoised


class Denoise(_DenoiseStage):
    """Denoises whole clips. One unit is one solver step of each job: one forward for the prompts of all jobs,
    and one for the negative prompts of those that use guidance at this step.

    Jobs may stand at different steps of different schedules, with different solvers and scales; what they
    share is in `key`: the size, the noise expert and its LoRA, and the length of their texts.

    Args:
        boundary: the high-noise expert runs timesteps >= 1000 * boundary; None where there is one expert,
            which is then called "high".
    """

    def __init__(self, pipeline: str, experts: Experts, boundary: float | None, device: torch.device) -> None:
        super().__init__(pipeline, experts, device)
        self._boundary = boundary

    def key(self, job: Job) -> BatchKey:
        return BatchKey(
            stage=self.name,
            pipeline=self._pipeline,
            latent_shape=job.latent_shape,
            expert=self._expert(self._state(job)),
            lora=job.lora,
            text_len=_texts(job)[0].num_tokens,
        )

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> None:
        states = [self._state(job) for job in jobs]
        expert = self._expert(states[0])
        velocities = self._velocities(jobs, states, expert)
        for job, state, velocity in zip(jobs, states, velocities, strict=True):
            if job.wants_preview:
                job.predicted = predict_clean(velocity, state.latents, state.sigmas[state.step])
            self._commit(job, advance(state, velocity, job.request.sampling), expert)

    def units(self, job: Job) -> int:
        return job.request.sampling.num_inference_steps

    def _state(self, job: Job) -> DenoiseState:
        if job.denoise is None:
            job.denoise = start(job, self._device)
        assert isinstance(job.denoise, DenoiseState)
        return job.denoise

    def _expert(self, state: DenoiseState) -> NoiseExpert:
        return "high" if is_high_noise(state.timestep, self._boundary) else "low"

    def _velocities(
        self, jobs: Sequence[Job], states: Sequence[DenoiseState], expert: NoiseExpert
    ) -> Sequence[Tensor]:
        """The guided velocity of each job; the branches are forwards of their own, as their texts may differ
        in length."""
        groups = _guided(jobs, expert)
        leaves = self._leaves(states, expert)
        velocities = self._forward(jobs, states, expert, branch=0, is_last=leaves and not groups)
        for members in groups:
            guided, some = [jobs[i] for i in members], [states[i] for i in members]
            is_last = leaves and members is groups[-1]
            negatives = self._forward(guided, some, expert, branch=1, is_last=is_last)
            for i, velocity in zip(members, negatives, strict=True):
                velocities[i] = cfg(velocities[i], velocity, jobs[i].guidance[expert])
        return velocities

    def _forward(
        self,
        jobs: Sequence[Job],
        states: Sequence[DenoiseState],
        expert: NoiseExpert,
        *,
        branch: int,
        is_last: bool,
    ) -> list[Tensor]:
        """Velocities for the prompts (branch 0) or the negative prompts (branch 1)."""
        lora = jobs[0].lora
        experts = self._experts(lora)
        wan = experts.select(states[0].timestep)
        context = _joined([_texts(job)[branch].context(expert, wan, lora) for job in jobs])
        timesteps = _timesteps([state.timestep for state in states], self._device)
        if is_last:
            experts.prefetch_low()
        return list(wan(torch.cat([state.latents for state in states]), timesteps, context).split(1))

    def _leaves(self, states: Sequence[DenoiseState], expert: NoiseExpert) -> bool:
        """Whether this step is the last that the high-noise expert makes for these jobs."""
        coming = [state.timesteps[state.step + 1 :] for state in states]
        return expert == "high" and all(
            timesteps and not is_high_noise(timesteps[0], self._boundary) for timesteps in coming
        )

    def _commit(self, job: Job, state: DenoiseState, expert: NoiseExpert) -> None:
        if state.is_finished:
            job.latents.extend(state.latents.chunk(job.num_latent_frames, dim=2))
            job.num_denoised = job.num_latent_frames
            job.denoise = job.text = None
            return
        job.denoise = state
        if self._expert(state) != expert:
            for text in _own_texts(job):
                text.forget(expert)


def _timesteps(timesteps: Sequence[float], device: torch.device) -> Tensor:
    # Made on the device, the tensor would be copied there by a call that waits for all work in flight.
    return torch.tensor(timesteps).to(device, non_blocking=True)


def _joined(contexts: Sequence[TextContext]) -> TextContext:
    # torch.cat copies even a single tensor, and a context may weigh 0.4 GB.
    return contexts[0] if len(contexts) == 1 else TextContext.cat(contexts)


def _guided(jobs: Sequence[Job], expert: NoiseExpert) -> list[list[int]]:
    """Indices of the jobs that this expert guides, those with negative prompts of one length together: one
    group, unless embeddings of several lengths were given."""
    groups: dict[int, list[int]] = {}
    for i, job in enumerate(jobs):
        if job.guidance[expert] != 1.0:
            groups.setdefault(_texts(job)[1].num_tokens, []).append(i)
    return list(groups.values())


def _texts(job: Job) -> tuple[EncodedText, ...]:
    """The prompt and, for a job with guidance, the negative prompt."""
    assert job.text is not None, "the text is not encoded yet"
    if job.text.negative is None:
        return (job.text.prompt,)
    return job.text.prompt, job.text.negative


def _own_texts(job: Job) -> tuple[EncodedText, ...]:
    """Those of `_texts` that no other job reads: a negative prompt that was not given as embeddings is the
    pipeline's."""
    is_negative_own = job.given.negative_prompt_embeds is not None
    return _texts(job) if is_negative_own else _texts(job)[:1]


class DenoiseCausal(_DenoiseStage):
    """Denoises latent frame by latent frame, each seeing the clean frames before it through a KV cache.

    One unit is one solver step of the frame in work. After a frame's last step one more pass at t = 0 writes
    its clean keys and values. For networks trained block-causally, with one noise expert. Jobs do not share a
    forward: their caches differ in length.
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
        chunk = state.chunk
        if chunk is None:
            frame = state.noise[:, :, job.num_denoised : job.num_denoised + 1]
            chunk = replace(state.start, latents=frame)
        velocities = self._forward(job, state.caches, chunk.latents, chunk.timestep)
        velocity = velocities[0]
        if len(velocities) == 2:
            velocity = cfg(velocity, velocities[1], job.guidance["high"])
        num_before = job.num_denoised * len(chunk.timesteps)
        state.chunk = advance(chunk, velocity, job.request.sampling, num_before=num_before)
        if state.chunk.is_finished:
            self._finish_frame(job, state, state.chunk.latents)

    def _state(self, job: Job) -> CausalState:
        if job.denoise is None:
            begin = start(job, self._device)
            caches = tuple(KVCache() for _ in _texts(job))
            job.denoise = CausalState(noise=begin.latents, start=begin, chunk=None, caches=caches)
        assert isinstance(job.denoise, CausalState)
        return job.denoise

    def _finish_frame(self, job: Job, state: CausalState, latents: Tensor) -> None:
        job.latents.append(latents)
        job.num_denoised += 1
        state.chunk = None
        if job.is_denoised:
            job.denoise = job.text = None
            return
        self._forward(job, state.caches, latents, 0.0, write_cache=True)

    def _forward(
        self,
        job: Job,
        caches: Sequence[KVCache],
        latents: Tensor,
        timestep: float,
        *,
        write_cache: bool = False,
    ) -> list[Tensor]:
        """Velocities of the branches, each of which has its own cache."""
        wan = self._experts(job.lora).select(timestep)
        timesteps = _timesteps([timestep], self._device)
        return [
            wan(
                latents,
                timesteps,
                text.context("high", wan, job.lora),
                causal=True,
                cache=cache,
                write_cache=write_cache,
            )
            for text, cache in zip(_texts(job), caches, strict=True)
        ]
