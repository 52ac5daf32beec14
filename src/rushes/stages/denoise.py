"""The denoising stage of whole clips: one solver step a unit.

The path is a rectified flow: x = (1 - sigma) * clean + sigma * noise, velocity v = noise - clean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from rushes.models.expert_pair import ExpertPair
from rushes.models.phase import Phase
from rushes.models.wan import TextContext
from rushes.sampling.flow import predict_clean
from rushes.sampling.guidance import is_high_noise
from rushes.sampling.noise import initial_noise, step_generator
from rushes.sampling.solvers import load_solver, schedule_for
from rushes.sampling.step_cache import Plan, new_cache, plan_step, predicted_change, take_step, tell_plan
from rushes.stages.base import BatchKey, DenoiseState, Job, NoiseExpert
from rushes.stages.source import Snapshot, check_source, taken_up
from rushes.stages.text_encode import EncodedText
from rushes.trace import span, traced
from rushes.types import ForwardCounts, SamplingParams

Experts = Callable[[str | None], ExpertPair]
"""The network or networks with a LoRA fused into them, or without one."""

BRANCHES = ("conditional", "unconditional")


_DRAWING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="noise")


def draw_noise(job: Job) -> None:
    """Begin to draw what `start` will ask for, on another thread: the five million numbers of a large clip
    take 50 ms, in which a GPU can encode the text."""
    if job.denoise is None and job.given.latents is None and job.noise is None:
        job.noise = _DRAWING.submit(initial_noise, *_noise_of(job))


def _noise_of(job: Job) -> tuple[Sequence[int], int]:
    return (1, *job.latent_shape), job.request.sampling.seed


@traced("noise")
def start(job: Job, device: torch.device) -> DenoiseState:
    """The state of a job before its first step: the given latents, or noise from the seed; or where its
    source stands. Raises `ResumeError` when it cannot go on from there."""
    sampling = job.request.sampling
    latents = job.given.latents
    if latents is None:
        latents = initial_noise(*_noise_of(job)) if job.noise is None else job.noise.result()
    schedule = schedule_for(sampling)
    begin = DenoiseState(
        # Contiguous, as a stored state is: sums are then taken in one order.
        latents=latents.to(device, torch.float32).contiguous(),
        sigmas=schedule.sigmas,
        timesteps=schedule.timesteps,
        step_cache=None if job.is_causal else new_cache(sampling),
    )
    job.noise = None
    if job.given.source is None:
        return begin
    assert job.request.source is not None, "the request says how its source is taken up"
    check_source(job.request.source, job.given.source, schedule.sigmas)
    return taken_up(begin, job.request.source, job.given.source)


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


class DenoiseStage:
    """What both denoising stages are made of: `Denoise`, and `rushes.stages.denoise_causal`.

    Args:
        experts: returns the network or networks, loading them when first called with a LoRA's name or None.
    """

    name = "denoise"
    runs_ahead = False

    def __init__(self, pipeline: str, experts: Experts, device: torch.device) -> None:
        self._pipeline = pipeline
        self._experts = experts
        self._device = device

    @traced("load", stage="denoise")
    def prepare(self, job: Job) -> None:
        self._experts(job.lora)

    def done(self, job: Job) -> bool:
        return job.is_denoised


class Denoise(DenoiseStage):
    """Denoises whole clips. One unit is one solver step of each job: one forward for the prompts of all jobs,
    and one for the negative prompts of those that use guidance at this step. A job whose step cache or
    guidance gate saves it a forward leaves that forward alone; the others run it together.

    Jobs may stand at different steps of different schedules, with different solvers, scales and caches; what
    they share is in `key`: the size, the noise expert and its LoRA, and the length of their texts.

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
            text_len=texts_of(job)[0].num_tokens,
        )

    def prepare(self, job: Job) -> None:
        super().prepare(job)
        if self._expert(self._state(job)) == "low":  # no `select`: it swaps weights that a unit may read
            self._experts(job.lora).wait()

    @torch.no_grad()
    def run(self, jobs: Sequence[Job]) -> None:
        states = [self._state(job) for job in jobs]
        expert = self._expert(states[0])
        plans = _plans(jobs, states, expert)
        conditional, unconditional = self._forwards(jobs, states, plans, expert)
        steps = [
            _take(job, state, plan, (conditional.get(i), unconditional.get(i)), job.guidance[expert])
            for i, (job, state, plan) in enumerate(zip(jobs, states, plans, strict=True))
        ]
        # No job changes before all of them can: a batch that runs out of memory is run again, job by job.
        for job, before, (state, predicted), plan in zip(jobs, states, steps, plans, strict=True):
            self._commit(job, state, expert)
            _keep(job, before, predicted)
            job.forwards = counted(job.forwards, plan)

    def units(self, job: Job) -> int:
        return job.request.sampling.num_inference_steps - job.first_step

    def _state(self, job: Job) -> DenoiseState:
        if job.denoise is None:
            job.denoise = start(job, self._device)
        assert isinstance(job.denoise, DenoiseState)
        return job.denoise

    def _expert(self, state: DenoiseState) -> NoiseExpert:
        return "high" if is_high_noise(state.timestep, self._boundary) else "low"

    def _forwards(
        self, jobs: Sequence[Job], states: Sequence[DenoiseState], plans: Sequence[Plan], expert: NoiseExpert
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Velocities for the prompts and for the negative prompts, by index of the jobs that run them."""
        velocities: tuple[dict[int, Tensor], dict[int, Tensor]] = ({}, {})
        wan = self._experts(jobs[0].lora).select(states[0].timestep)
        phases = [wan.phase(state.step, len(state.timesteps), state.timestep) for state in states]
        calls = list(_calls(jobs, plans, phases))
        leaves = self._leaves(states, expert)
        for number, (branch, members) in enumerate(calls, 1):
            some, their_states = [jobs[i] for i in members], [states[i] for i in members]
            is_last = leaves and number == len(calls)
            phase = phases[members[0]]
            found = self._forward(some, their_states, expert, branch=branch, phase=phase, is_last=is_last)
            velocities[branch].update(zip(members, found, strict=True))
        return velocities

    def _forward(
        self,
        jobs: Sequence[Job],
        states: Sequence[DenoiseState],
        expert: NoiseExpert,
        *,
        branch: int,
        phase: Phase,
        is_last: bool,
    ) -> Sequence[Tensor]:
        """Velocities for the prompts (branch 0) or the negative prompts (branch 1)."""
        lora = jobs[0].lora
        experts = self._experts(lora)
        wan = experts.select(states[0].timestep)
        context = _joined([texts_of(job)[branch].context(expert, wan, lora) for job in jobs])
        timesteps = timesteps_of([state.timestep for state in states], self._device)
        if is_last:
            experts.prefetch_low()
        latents = torch.cat([state.latents for state in states])
        with span("forward", branch=BRANCHES[branch], batch=len(jobs)):
            velocities: Tensor = wan(latents, timesteps, context, phase=phase)
        return velocities.chunk(len(jobs))

    def _leaves(self, states: Sequence[DenoiseState], expert: NoiseExpert) -> bool:
        """Whether this step is the last that the high-noise expert makes for these jobs."""
        coming = [state.timesteps[state.step + 1 :] for state in states]
        return expert == "high" and all(
            timesteps and not is_high_noise(timesteps[0], self._boundary) for timesteps in coming
        )

    def _commit(self, job: Job, state: DenoiseState, expert: NoiseExpert) -> None:
        if state.is_finished:
            job.latents.extend(state.latents.chunk(job.num_latent_frames, dim=2))
            job.denoise = job.text = None
            return
        if self._expert(state) != expert:
            # The other network answers differently to the same input: what is known of this one is void.
            state = replace(state, step_cache=new_cache(job.request.sampling))
            for text in _own_texts(job):
                text.forget(expert)
        job.denoise = state


def timesteps_of(timesteps: Sequence[float], device: torch.device) -> Tensor:
    """Timesteps of a batch on the device: [B]."""
    # Made on the device, the tensor would be copied there by a call that waits for all work in flight.
    return torch.tensor(timesteps).to(device, non_blocking=True)


def _joined(contexts: Sequence[TextContext]) -> TextContext:
    # torch.cat copies even a single tensor, and a context may weigh 0.4 GB.
    return contexts[0] if len(contexts) == 1 else TextContext.cat(contexts)


def _plans(jobs: Sequence[Job], states: Sequence[DenoiseState], expert: NoiseExpert) -> list[Plan]:
    """What each job runs of this step, decided by its own past alone."""
    changes = _changes(jobs, states)
    plans = [
        plan_step(
            state.step_cache,
            job.request.sampling,
            state.step,
            change=changes.get(i),
            is_guided=job.guidance[expert] != 1.0,
        )
        for i, (job, state) in enumerate(zip(jobs, states, strict=True))
    ]
    for i, (state, plan) in enumerate(zip(states, plans, strict=True)):
        tell_plan(state.step_cache, plan, state.step, changes.get(i))
    return plans


def _changes(jobs: Sequence[Job], states: Sequence[DenoiseState]) -> dict[int, float]:
    """Predicted changes, by index of the jobs that may skip this step."""
    predicted: dict[int, Tensor] = {}
    for i, (job, state) in enumerate(zip(jobs, states, strict=True)):
        change = predicted_change(state.step_cache, job.request.sampling, state.step, state.latents)
        if change is not None:
            predicted[i] = change
    if not predicted:
        return {}
    # The step's only wait for the device: who runs the forward must be known before it is queued. One read
    # serves the whole batch, and a batch in which nobody may skip has none.
    return dict(zip(predicted, torch.stack(list(predicted.values())).tolist(), strict=True))


def _calls(
    jobs: Sequence[Job], plans: Sequence[Plan], phases: Sequence[Phase]
) -> Iterator[tuple[int, list[int]]]:
    """The forwards of a step: branch, and indices of the jobs in it. The branches are forwards of their own,
    as their texts may differ in length, and so may those of negative prompts given as embeddings; so are
    phases, in which the network computes otherwise."""
    groups: dict[tuple[int, int, Phase], list[int]] = {}
    for branch in (0, 1):
        for i, plan in enumerate(plans):
            if (plan.runs_conditional, plan.runs_unconditional)[branch]:
                key = branch, texts_of(jobs[i])[branch].num_tokens, phases[i]
                groups.setdefault(key, []).append(i)
    for (branch, _, _), members in groups.items():
        yield branch, members


def _take(
    job: Job,
    state: DenoiseState,
    plan: Plan,
    velocities: tuple[Tensor | None, Tensor | None],
    scale: float,
) -> tuple[DenoiseState, Tensor | None]:
    """The state after the step, and the predicted clean latents where the job wants them."""
    sampling = job.request.sampling
    velocity, cache = take_step(
        state.step_cache,
        plan,
        sampling,
        state.latents,
        conditional=velocities[0],
        unconditional=velocities[1],
        scale=scale,
    )
    if state.region is not None:
        velocity = state.region.velocity(velocity, state.latents, state.sigmas[state.step])
    predicted = None
    if job.wants_preview or state.step in job.snapshot_steps:
        predicted = predict_clean(velocity, state.latents, state.sigmas[state.step])
    return replace(advance(state, velocity, sampling), step_cache=cache), predicted


def _keep(job: Job, before: DenoiseState, predicted: Tensor | None) -> None:
    """Leave what a step has shown of the clip to whoever reads the job."""
    job.predicted = predicted if job.wants_preview else None
    if predicted is not None and before.step in job.snapshot_steps:
        sigma = before.sigmas[before.step]
        job.snapshots.append(Snapshot(step=before.step, sigma=sigma, latents=before.latents, clean=predicted))


def counted(forwards: ForwardCounts, plan: Plan) -> ForwardCounts:
    """With the forwards that a step of this plan ran."""
    return ForwardCounts(
        conditional=forwards.conditional + plan.runs_conditional,
        unconditional=forwards.unconditional + plan.runs_unconditional,
    )


def texts_of(job: Job) -> tuple[EncodedText, ...]:
    """The prompt and, for a job with guidance, the negative prompt."""
    assert job.text is not None, "the text is not encoded yet"
    if job.text.negative is None:
        return (job.text.prompt,)
    return job.text.prompt, job.text.negative


def _own_texts(job: Job) -> tuple[EncodedText, ...]:
    """Those of `texts_of` that no other job reads: a negative prompt that was not given as embeddings is the
    pipeline's."""
    is_negative_own = job.given.negative_prompt_embeds is not None
    return texts_of(job) if is_negative_own else texts_of(job)[:1]
