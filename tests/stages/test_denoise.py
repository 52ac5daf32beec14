"""Denoise and DenoiseCausal: batching, experts, guidance, caches and slots."""

from dataclasses import replace
from threading import Event, Thread

import pytest
import torch

from rushes.models.expert_pair import ArrivingExperts
from rushes.sampling.guidance import cfg
from rushes.sampling.noise import initial_noise, step_generator
from rushes.sampling.solvers import load_solver, schedule_for
from rushes.stages.base import Given
from rushes.stages.denoise import Denoise
from rushes.stages.denoise_causal import DenoiseCausal
from rushes.stages.text_encode import EmbeddingCache, TextEncode
from tiny_parts import CPU, TinyParts, embeds, tiny_job


def relative(a, b):
    return float((a - b).norm() / b.norm())


def encoded(job, parts):
    TextEncode("toy", parts.text_encoder, EmbeddingCache(2**20), CPU).run([job])
    return job


def stage(parts):
    return Denoise("toy", parts.experts, parts.boundary, CPU)


def finish(denoise, *jobs):
    while jobs:
        denoise.run(jobs)
        jobs = [job for job in jobs if not denoise.done(job)]


def result(job):
    return torch.cat(list(job.latents), dim=2)


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda _module, args, _output: calls.append(args[0].shape[0]))
    return calls


JOBS = [
    {"prompt": "a dog", "seed": 1, "steps": 4, "guidance": 3.0},
    {"prompt": "a cat", "seed": 2, "steps": 6, "guidance": 1.0, "solver": "dpmpp-2m"},
    {"prompt": "two birds", "seed": 3, "steps": 5, "guidance": 5.0, "solver": "lcm", "shift": 5.0},
]


def test_jobs_of_other_steps_scales_and_solvers_share_a_batch_and_change_nothing():
    parts = TinyParts()
    alone = [encoded(tiny_job(**fields), parts) for fields in JOBS]
    for job in alone:
        finish(stage(parts), job)
    together = [encoded(tiny_job(**fields), parts) for fields in JOBS]
    stage(parts).run(together[:1])  # one step ahead of the others
    finish(stage(parts), *together)
    for one, other in zip(alone, together, strict=True):
        assert relative(result(other), result(one)) <= 1e-4


def test_a_step_is_one_forward_for_prompts_and_one_for_the_guided_jobs_negatives():
    parts = TinyParts()
    jobs = [encoded(tiny_job(**fields), parts) for fields in JOBS]
    calls = count_calls(parts.transformers["high"])
    stage(parts).run(jobs)
    assert calls == [3, 2]


def test_guidance_one_runs_no_unconditional_forward_and_encodes_no_negative():
    parts = TinyParts()
    job = encoded(tiny_job(guidance=1.0), parts)
    calls = count_calls(parts.transformers["high"])
    finish(stage(parts), job)
    assert calls == [1] * 3
    assert parts.encoder.prompts == ["a dog"]


def test_text_keys_and_values_are_computed_once_per_expert():
    parts = TinyParts(boundary=0.7)
    calls = {name: count_calls(wan.text_embed.fc1) for name, wan in parts.transformers.items()}
    texts = EmbeddingCache(2**20)
    for seed in range(2):
        job = tiny_job(seed=seed, steps=6, two_experts=True)
        TextEncode("toy", parts.text_encoder, texts, CPU).run([job])
        finish(stage(parts), job)
    # Two prompts; the negative prompt of both jobs is the same one.
    assert {name: len(shapes) for name, shapes in calls.items()} == {"high": 3, "low": 3}


@pytest.mark.parametrize("is_given", [False, True])
def test_the_switch_forgets_the_first_experts_texts_but_not_the_pipelines_negative_prompt(is_given):
    parts = TinyParts(boundary=0.7)
    given = Given(negative_prompt_embeds=embeds("dull")) if is_given else None
    job = encoded(tiny_job(steps=6, two_experts=True, given=given), parts)
    texts, high = (job.text.prompt, job.text.negative), parts.transformers["high"]
    before = [text.context("high", high) for text in texts]
    denoise = stage(parts)
    while denoise.key(job).expert == "high":
        denoise.run([job])
    kept = [text.context("high", high) is old for text, old in zip(texts, before, strict=True)]
    assert kept == [False, not is_given]


def test_the_boundary_decides_the_expert():
    parts = TinyParts(boundary=0.7)
    job = encoded(tiny_job(steps=6, two_experts=True, guidance=1.0), parts)
    denoise = stage(parts)
    timesteps = schedule_for(job.request.sampling).timesteps
    keys, calls = [], {name: count_calls(wan) for name, wan in parts.transformers.items()}
    while not denoise.done(job):
        keys.append(denoise.key(job).expert)
        denoise.run([job])
    assert keys == ["high" if t >= 700 else "low" for t in timesteps]
    assert {name: len(shapes) for name, shapes in calls.items()} == {
        "high": keys.count("high"),
        "low": keys.count("low"),
    }
    assert set(keys) == {"high", "low"}


class RecordingExperts:
    """An expert pair that writes down what it is told, and when its networks run."""

    def __init__(self, pair, log):
        self.pair, self.log = pair, log

    def select(self, timestep):
        return self.pair.select(timestep)

    def prefetch_low(self):
        self.log.append("prefetch")


@pytest.mark.parametrize(("guidance", "forwards"), [(1.0, 1), (3.0, 2)])
def test_the_low_noise_expert_is_fetched_during_the_last_forward_of_the_other(guidance, forwards):
    parts, log = TinyParts(boundary=0.7), []
    for name, wan in parts.transformers.items():
        wan.register_forward_pre_hook(lambda *_, name=name: log.append(name))
    job = encoded(tiny_job(steps=6, two_experts=True, guidance=guidance), parts)
    pair = RecordingExperts(parts.experts(), log)
    finish(Denoise("toy", lambda _lora: pair, parts.boundary, CPU), job)
    num_high = sum(t >= 700 for t in schedule_for(job.request.sampling).timesteps) * forwards
    expected = ["high"] * (num_high - 1) + ["prefetch", "high"] + ["low"] * (6 * forwards - num_high)
    assert log == expected


def test_the_arriving_low_noise_expert_is_waited_for_before_the_unit_begins():
    parts, may_arrive = TinyParts(boundary=0.7), Event()

    def load_low(on_allocated):
        on_allocated()
        assert may_arrive.wait(60)
        return parts.transformers["low"]

    pair = ArrivingExperts(parts.transformers["high"], load_low, boundary=parts.boundary)
    denoise = Denoise("toy", lambda _lora: pair, parts.boundary, CPU)
    job = encoded(tiny_job(steps=6, two_experts=True, guidance=1.0), parts)
    while denoise.key(job).expert == "high":
        denoise.prepare(job)  # does not wait
        denoise.run([job])
    preparing = Thread(target=denoise.prepare, args=(job,))
    preparing.start()
    preparing.join(0.2)
    assert preparing.is_alive()
    may_arrive.set()
    preparing.join(60)
    assert not preparing.is_alive()
    finish(denoise, job)


def test_key_tells_apart_what_cannot_share_a_forward():
    parts = TinyParts()
    short = Given(prompt_embeds=embeds("a dog", 2), negative_prompt_embeds=embeds("blurry", 3))
    jobs = [
        tiny_job(),
        tiny_job(seed=9, steps=7),
        tiny_job(frames=9),
        tiny_job(given=short),
        tiny_job(guidance=1.0),
    ]
    keys = [stage(parts).key(encoded(job, parts)) for job in jobs]
    assert keys[0] == keys[1]
    assert keys[0] == keys[4]
    assert len(set(keys)) == 3
    assert keys[3].text_len == 2


def with_lora(job, name):
    job.request = replace(job.request, sampling=replace(job.request.sampling, lora=name))
    return job


@pytest.mark.parametrize("mode", ["full", "causal"])
def test_jobs_with_and_without_a_lora_run_their_own_weights_and_share_no_key(mode):
    parts, other = TinyParts(), TinyParts()
    for parameter in other.transformers["high"].parameters():
        parameter.data.mul_(1.1)
    pairs = {None: parts.experts(), "a.safetensors": other.experts()}
    denoise = (
        DenoiseCausal("toy", pairs.__getitem__, CPU)
        if mode == "causal"
        else Denoise("toy", pairs.__getitem__, None, CPU)
    )
    jobs = [with_lora(encoded(tiny_job(mode=mode), parts), name) for name in pairs]
    assert len({denoise.key(job) for job in jobs}) == 2
    for job, owner in zip(jobs, (parts, other), strict=True):
        finish(denoise, job)
        expected = encoded(tiny_job(mode=mode), parts)
        finish(DenoiseCausal("toy", owner.experts, CPU) if mode == "causal" else stage(owner), expected)
        assert torch.equal(result(job), result(expected))
    assert not torch.equal(result(jobs[0]), result(jobs[1]))


def test_negative_prompts_of_several_lengths_share_a_batch():
    parts = TinyParts()
    given = Given(negative_prompt_embeds=embeds("dull", 3))
    fields = [{"seed": 1}, {"seed": 2, "given": given}, {"seed": 3, "guidance": 4.0}]
    alone = [encoded(tiny_job(**each), parts) for each in fields]
    for job in alone:
        finish(stage(parts), job)
    together = [encoded(tiny_job(**each), parts) for each in fields]
    calls = count_calls(parts.transformers["high"])
    finish(stage(parts), *together)
    assert calls == [3, 2, 1] * 3
    for one, other in zip(alone, together, strict=True):
        assert relative(result(other), result(one)) <= 1e-4


def test_the_noise_is_the_seeds_and_given_latents_replace_it():
    parts = TinyParts()
    noise = torch.randn((1, 4, 3, 4, 8), generator=torch.Generator().manual_seed(5))
    by_seed = encoded(tiny_job(seed=5), parts)
    given = encoded(tiny_job(seed=6, given=Given(latents=noise)), parts)
    finish(stage(parts), by_seed)
    finish(stage(parts), given)
    assert torch.equal(result(by_seed), result(given))


def test_the_last_step_frees_what_came_before():
    parts = TinyParts()
    job = encoded(tiny_job(), parts)
    finish(stage(parts), job)
    assert job.text is None
    assert job.denoise is None
    assert [tuple(latent.shape) for latent in job.latents] == [(1, 4, 1, 4, 8)] * 3


def test_the_preview_is_the_predicted_clean_clip():
    parts = TinyParts()
    job = encoded(tiny_job(guidance=1.0, steps=1, solver="euler"), parts)
    job.wants_preview = True
    finish(stage(parts), job)
    # One Euler step from sigma to 0 lands on the prediction itself.
    assert relative(job.predicted, result(job)) <= 1e-6


@torch.no_grad()
def causal_reference(job, parts):
    """Every step is one uncached forward of all frames so far, the clean ones at t = 0."""
    wan, sampling = parts.transformers["high"], job.request.sampling
    contexts = [wan.encode_text(embeds(text).states) for text in (job.request.prompt, "blurry")]
    schedule = schedule_for(sampling)
    noise = initial_noise((1, *job.latent_shape), sampling.seed)
    clean = noise[:, :, :0]
    for frame in noise.split(1, dim=2):
        history = None
        for index, timestep in enumerate(schedule.timesteps):
            times = torch.tensor([[0.0] * clean.shape[2] + [timestep]])
            clip = torch.cat([clean, frame], dim=2)
            velocities = [wan(clip, times, context, causal=True)[:, :, -1:] for context in contexts]
            velocity = cfg(*velocities, sampling.guidance_high)
            step = load_solver(sampling.solver).step
            num_steps = clean.shape[2] * sampling.num_inference_steps + index  # of the whole clip
            generator = step_generator(sampling.seed, num_steps)
            frame, history = step(velocity, frame, schedule.sigmas, index, history, generator)
        clean = torch.cat([clean, frame], dim=2)
    return clean


@pytest.mark.parametrize("solver", ["unipc", "euler", "lcm"])
def test_causal_generation_is_that_of_uncached_block_causal_forwards(solver):
    parts = TinyParts()
    job = encoded(tiny_job(mode="causal", solver=solver, seed=4), parts)
    finish(DenoiseCausal("toy", parts.experts, CPU), job)
    assert relative(result(job), causal_reference(job, parts)) <= 1e-5
    assert job.text is None
    assert job.denoise is None


def test_each_latent_frame_of_a_causal_clip_draws_noise_of_its_own():
    parts = TinyParts()
    for parameter in parts.transformers["high"].head.parameters():
        parameter.data.zero_()
    still = Given(latents=torch.zeros(1, 4, 3, 4, 8))
    job = encoded(tiny_job(mode="causal", solver="lcm", guidance=1.0, given=still), parts)
    finish(DenoiseCausal("toy", parts.experts, CPU), job)
    # From zeros and with no velocity, a frame is nothing but the noise that its steps added.
    first, second, third = job.latents
    for one, other in ((first, second), (second, third), (first, third)):
        assert torch.cosine_similarity(one.flatten(), other.flatten(), dim=0).abs() < 0.5


def test_causal_passes_over_the_network_are_steps_and_one_write_a_frame():
    parts = TinyParts()
    job = encoded(tiny_job(mode="causal", guidance=1.0), parts)
    calls = count_calls(parts.transformers["high"])
    denoise = DenoiseCausal("toy", parts.experts, CPU)
    finish(denoise, job)
    # Three latent frames of three steps; nobody reads what the last one would write.
    assert len(calls) == denoise.units(job) + 2 == 11
