"""Denoise with step caches and guidance gates: exactness, isolation of jobs in a batch, forwards run."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from rushes.models.wan import TextContext
from rushes.sampling.solvers import SOLVERS, schedule_for
from rushes.sampling.step_cache import StepCache
from rushes.stages.base import Given
from rushes.stages.denoise import Denoise
from rushes.stages.denoise_causal import DenoiseCausal
from rushes.stages.text_encode import EmbeddingCache, TextEncode
from rushes.types import ForwardCounts
from tiny_parts import CPU, ROUTED, TRANSFORMER, TinyParts, embeds, tiny_job

NEVER = 1e-30
"""A threshold that no error is below: every rule is at work and every forward is run."""

REUSES = {
    "off": {},
    "gate": {"gate": 0.4},
    "cache": {"cache": 0.8},
    "both": {"cache": 0.8, "gate": 0.4},
}


def encoded(parts, **fields):
    job = tiny_job(**{"steps": 12, **fields})
    TextEncode("toy", parts.text_encoder, EmbeddingCache(2**20), CPU).run([job])
    return job


def stage(parts):
    return Denoise("toy", parts.experts, parts.boundary, CPU)


def finish(denoise, *jobs):
    while jobs:
        denoise.run(jobs)
        jobs = [job for job in jobs if not denoise.done(job)]


def finished(parts, **fields):
    job = encoded(parts, **fields)
    finish(stage(parts), job)
    return job


def result(job):
    return torch.cat(job.latents, dim=2)


def relative(a, b):
    return float((a - b).norm() / b.norm())


def counts(job):
    return job.forwards.conditional, job.forwards.unconditional


# Exactness.


@pytest.mark.parametrize("boundary", [None, 0.7])
@pytest.mark.parametrize("solver", SOLVERS.names())
def test_rules_that_save_nothing_change_no_bit(solver, boundary):
    parts = TinyParts(boundary=boundary)
    fields = {"solver": solver, "guidance": 3.0, "two_experts": boundary is not None}
    plain = finished(parts, **fields)
    watched = finished(parts, **fields, cache=NEVER)
    assert torch.equal(result(plain), result(watched))
    assert plain.forwards == watched.forwards == ForwardCounts(conditional=12, unconditional=12)


def test_eight_steps_are_too_few_to_reuse_any():
    parts = TinyParts()
    plain, asked = finished(parts, steps=8), finished(parts, steps=8, cache=100.0, gate=0.1)
    assert torch.equal(result(plain), result(asked))
    assert counts(asked) == (8, 8)


@pytest.mark.parametrize("boundary", [None, 0.7])
@pytest.mark.parametrize("reuse", REUSES)
@pytest.mark.parametrize("solver", SOLVERS.names())
def test_two_interleaved_requests_are_two_serial_ones_bit_for_bit(solver, reuse, boundary):
    parts = TinyParts(boundary=boundary)
    fields = {"solver": solver, "two_experts": boundary is not None, **REUSES[reuse]}
    several = [{**fields, "seed": 1}, {**fields, "seed": 2, "prompt": "a cat", "steps": 10, "guidance": 4.0}]
    serial = [finished(parts, **each) for each in several]
    denoise, jobs = stage(parts), [encoded(parts, **each) for each in several]
    left = jobs
    while left:
        for job in left:
            denoise.run([job])
        left = [job for job in left if not denoise.done(job)]
    for one, other in zip(serial, jobs, strict=True):
        assert torch.equal(result(one), result(other))
        assert one.forwards == other.forwards
    assert (counts(jobs[0])[0] < 12) == ("cache" in REUSES[reuse])
    assert (counts(jobs[0])[1] < 12) == bool(REUSES[reuse])


BATCH = [
    {"seed": 1, "guidance": 3.0, "cache": 0.4, "gate": 0.4},
    {"seed": 2, "prompt": "a cat", "steps": 10, "solver": "dpmpp-2m", "cache": 0.8},
    {"seed": 3, "prompt": "two birds", "steps": 9, "solver": "lcm", "gate": 0.3},
    {"seed": 4, "prompt": "a fish", "steps": 14, "solver": "ddim"},
    {"seed": 5, "prompt": "a red car", "steps": 11, "solver": "euler", "guidance": 1.0, "cache": 0.8},
]


@pytest.mark.parametrize("boundary", [None, 0.7])
@pytest.mark.parametrize("transformer", [TRANSFORMER, ROUTED], ids=["dense", "routed"])
def test_a_batch_of_every_solver_and_cache_is_what_each_job_is_alone(transformer, boundary):
    parts = TinyParts(boundary=boundary, transformer=transformer)
    several = [{**fields, "two_experts": boundary is not None} for fields in BATCH]
    alone = [finished(parts, **fields) for fields in several]
    together = [encoded(parts, **fields) for fields in several]
    denoise = stage(parts)
    left = together
    while left:
        key = denoise.key(left[0])
        denoise.run([job for job in left if denoise.key(job) == key])
        left = [job for job in left if not denoise.done(job)]
    for one, other in zip(alone, together, strict=True):
        assert relative(result(other), result(one)) <= 1e-4
        assert one.forwards == other.forwards
    saved = [fields.get("steps", 12) - counts(job)[0] for fields, job in zip(several, together, strict=True)]
    assert [number > 0 for number in saved] == ["cache" in fields for fields in several]


@pytest.mark.parametrize("transformer", [TRANSFORMER, ROUTED], ids=["dense", "routed"])
def test_a_forward_of_a_batch_is_that_of_each_job(transformer):
    parts, found = TinyParts(transformer=transformer), []
    parts.transformers["high"].register_forward_hook(lambda _m, _args, output: found.append(output))
    fields = [{"seed": seed, "prompt": f"{seed} dogs", "steps": 9 + seed} for seed in range(4)]
    for each in fields:
        stage(parts).run([encoded(parts, **each)])
    alone, found[:] = [torch.cat(found[branch::2]) for branch in (0, 1)], []
    stage(parts).run([encoded(parts, **each) for each in fields])
    for one, other in zip(alone, found, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert relative(theirs, mine) <= 1e-5


# Isolation: with a network whose arithmetic does not depend on the batch, not one bit may differ.


class ElementWan:
    """Answers number by number, in operations that IEEE 754 rounds one way; notes its batches' sizes."""

    def __init__(self, pull):
        self.pull = pull
        self.batches = []

    def encode_text(self, states, pooled=None):
        mean = states.mean(dim=(1, 2))[:, None, None, None]
        return TextContext(keys=(mean,), values=(mean,))

    def phase(self, step, num_steps, timestep):
        return ()

    def __call__(self, latents, timesteps, context, phase=()):
        self.batches.append(len(latents))
        text = context.keys[0][..., None]
        time = timesteps[:, None, None, None, None] / 1000
        return (latents * (1 + self.pull * time) - text) / (1 + latents.abs())


class ElementExperts:
    def __init__(self, boundary):
        self.high, self.low = ElementWan(1.0), ElementWan(-0.5)
        self.boundary = boundary

    def select(self, timestep):
        is_high = self.boundary is None or timestep >= 1000 * self.boundary
        return self.high if is_high else self.low

    def prefetch_low(self):
        pass


FIELDS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 99),
        "prompt": st.sampled_from(["a dog", "a cat", "two birds"]),
        "steps": st.integers(7, 16),
        "solver": st.sampled_from(SOLVERS.names()),
        "guidance": st.sampled_from([1.0, 2.0, 5.0]),
        "cache": st.sampled_from([0.0, 0.02, 0.1, 0.3, 1.0]),
        "gate": st.sampled_from([0.2, 0.5, 1.0]),
        "shift": st.sampled_from([1.0, 3.0]),
    }
)


@given(
    several=st.lists(FIELDS, min_size=2, max_size=5),
    is_pair=st.booleans(),
    source=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=60)
def test_batch_mates_at_any_steps_decide_nothing_for_each_other(several, is_pair, source):
    parts, experts = TinyParts(), ElementExperts(0.6 if is_pair else None)
    denoise = Denoise("toy", lambda _lora: experts, experts.boundary, CPU)
    alone = [encoded(parts, **fields, two_experts=is_pair) for fields in several]
    for job in alone:
        finish(denoise, job)
    together = [encoded(parts, **fields, two_experts=is_pair) for fields in several]
    left = list(together)
    while left:  # whoever may share a batch with a job drawn, or some of them
        key = denoise.key(source.choice(left))
        batch = [job for job in left if denoise.key(job) == key]
        denoise.run(source.sample(batch, source.randint(1, len(batch))))
        left = [job for job in left if not denoise.done(job)]
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(result(one), result(other))
        assert one.forwards == other.forwards


# What is run.


def test_jobs_that_skip_leave_the_forward_and_the_others_run_together():
    parts, experts = TinyParts(), ElementExperts(None)
    denoise = Denoise("toy", lambda _lora: experts, None, CPU)
    several = [{"cache": 100.0}, {}, {"gate": 0.5}, {"guidance": 1.0}]
    jobs = [encoded(parts, steps=10, seed=seed, **fields) for seed, fields in enumerate(several)]
    finish(denoise, *jobs)
    # Steps 0 and 1 are the warm-up, 8 and 9 the last ones; the gate is before step 5.
    all_run, without_cached = [4, 3], [3, 2]
    gated, gated_without_cached = [4, 2], [3, 1]
    assert experts.high.batches == all_run * 2 + without_cached * 3 + gated_without_cached * 3 + gated * 2
    assert [counts(job) for job in jobs] == [(4, 4), (10, 10), (10, 5), (10, 0)]


def test_a_step_that_all_jobs_skip_runs_no_network():
    parts, experts = TinyParts(), ElementExperts(None)
    denoise = Denoise("toy", lambda _lora: experts, None, CPU)
    jobs = [encoded(parts, steps=10, seed=seed, cache=100.0) for seed in range(2)]
    finish(denoise, *jobs)
    assert experts.high.batches == [2, 2] * 4


def test_the_second_expert_begins_with_fresh_forwards_of_both_branches():
    parts = TinyParts(boundary=0.7)
    job = encoded(parts, steps=12, two_experts=True, cache=100.0, gate=0.1)
    calls = []
    for name, wan in parts.transformers.items():
        wan.register_forward_hook(lambda *_, name=name: calls.append(name))
    num_high = sum(t >= 700 for t in schedule_for(job.request.sampling).timesteps)
    denoise = stage(parts)
    while denoise.key(job).expert == "high":
        denoise.run([job])
    assert job.denoise.step_cache == StepCache()
    assert calls == ["high"] * (2 + 2 + 1)  # both branches at steps 0 and 1, then the prompt's at step 2
    assert 3 < num_high < 9
    calls.clear()
    denoise.run([job])
    assert calls == ["low", "low"]
    finish(denoise, job)
    assert calls == ["low"] * 2 + ["low"] + ["low"] * 2  # one more before the rule speaks, and the last two
    assert counts(job) == (3 + 4, 2 + 1)


class Reads(TorchFunctionMode):
    """Counts the calls that wait for a device to hand over values."""

    WAITING = ("tolist", "item", "__bool__", "__float__", "__int__", "cpu", "numpy")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += getattr(func, "__name__", "") in self.WAITING
        return func(*args, **(kwargs or {}))


def reads_by_step(parts, several):
    denoise, jobs, found = stage(parts), [encoded(parts, **fields) for fields in several], []
    while jobs:
        with Reads() as reads:
            denoise.run(jobs)
        found.append(reads.count)
        jobs = [job for job in jobs if not denoise.done(job)]
    return found


def test_the_host_reads_once_a_step_for_a_batch_and_never_without_a_cache():
    parts = TinyParts()
    off = [{"seed": 1, "steps": 10}, {"seed": 2, "steps": 10, "gate": 0.5}]
    on = [{"seed": seed, "steps": 10, "cache": 0.05} for seed in (3, 4)]
    assert reads_by_step(parts, off) == [0] * 10
    assert reads_by_step(parts, [*off, *on]) == [0, 0] + [1] * 6 + [0, 0]


class RecordingExperts:
    def __init__(self, pair, log):
        self.pair, self.log = pair, log

    def select(self, timestep):
        return self.pair.select(timestep)

    def prefetch_low(self):
        self.log.append("prefetch")


def test_the_low_noise_expert_is_fetched_during_the_last_forward_that_is_really_run():
    parts, log = TinyParts(boundary=0.7), []
    for name, wan in parts.transformers.items():
        wan.register_forward_pre_hook(lambda *_, name=name: log.append(name))
    job = encoded(parts, steps=10, two_experts=True, gate=0.2)
    pair = RecordingExperts(parts.experts(), log)
    finish(Denoise("toy", lambda _lora: pair, parts.boundary, CPU), job)
    num_high = sum(t >= 700 for t in schedule_for(job.request.sampling).timesteps)
    # The gate closes before step 2: the high-noise expert's last step runs one branch alone.
    assert log[: num_high + 3] == ["high"] * (num_high + 1) + ["prefetch", "high"]
    assert log.count("prefetch") == 1


class FailingWan(ElementWan):
    """Runs out of memory in its n-th call."""

    def __init__(self, pull, call):
        super().__init__(pull)
        self.call = call

    def __call__(self, latents, timesteps, context, phase=()):
        velocity = super().__call__(latents, timesteps, context)
        if len(self.batches) == self.call:
            raise torch.OutOfMemoryError
        return velocity


@pytest.mark.parametrize("call", [7, 8])
def test_a_step_that_fails_changes_no_job_and_can_be_run_again(call):
    parts, experts = TinyParts(), ElementExperts(None)
    several = [{"seed": 1, "steps": 10, "cache": 0.02}, {"seed": 2, "steps": 10}]
    denoise = Denoise("toy", lambda _lora: experts, None, CPU)
    alone = [encoded(parts, **fields) for fields in several]
    for job in alone:
        finish(denoise, job)
    experts.high = FailingWan(1.0, call)
    jobs = [encoded(parts, **fields) for fields in several]
    for _ in range(3):
        denoise.run(jobs)
    before = [(job.denoise, job.forwards) for job in jobs]
    with pytest.raises(torch.OutOfMemoryError):
        denoise.run(jobs)
    assert [(job.denoise, job.forwards) for job in jobs] == before
    for job in jobs:
        finish(denoise, job)
    assert all(torch.equal(result(a), result(b)) for a, b in zip(alone, jobs, strict=True))


def test_previews_and_given_negatives_go_with_reuse():
    parts = TinyParts()
    given = Given(negative_prompt_embeds=embeds("dull", 3))
    several = [{"seed": 1}, {"seed": 2, "given": given}]
    alone = [finished(parts, **REUSES["both"], **fields) for fields in several]
    jobs = [encoded(parts, **REUSES["both"], **fields) for fields in several]
    for job in jobs:
        job.wants_preview = True
    finish(stage(parts), *jobs)
    for one, job in zip(alone, jobs, strict=True):
        assert relative(result(job), result(one)) <= 1e-4
        assert job.predicted.shape == (1, 4, 3, 4, 8)


@pytest.mark.parametrize(("guidance", "forwards"), [(1.0, (9, 0)), (2.0, (9, 9))])
def test_the_causal_mode_counts_its_steps_forwards(guidance, forwards):
    parts = TinyParts()
    job = encoded(parts, mode="causal", guidance=guidance, steps=3)
    finish(DenoiseCausal("toy", parts.experts, CPU), job)
    assert counts(job) == forwards


class FailingForward:
    """A network's hook that runs out of memory in the n-th forward."""

    def __init__(self, call):
        self.call, self.count = call, 0

    def __call__(self, *_):
        self.count += 1
        if self.count == self.call:
            raise torch.OutOfMemoryError


@pytest.mark.parametrize("call", range(1, 23))
def test_a_causal_unit_that_fails_anywhere_can_be_run_again(call):
    parts = TinyParts()
    fields = {"mode": "causal", "steps": 3, "seed": 4}
    expected, job = encoded(parts, **fields), encoded(parts, **fields)
    denoise = DenoiseCausal("toy", parts.experts, CPU)
    finish(denoise, expected)
    # 3 frames of 3 steps and 2 writes, two branches each: 22 forwards.
    parts.transformers["high"].register_forward_hook(FailingForward(call))
    with pytest.raises(torch.OutOfMemoryError):
        finish(denoise, job)
    finish(denoise, job)
    assert torch.equal(result(job), result(expected))
    assert job.forwards == expected.forwards


def test_a_causal_job_has_no_cache_even_if_its_request_asks_for_one():
    parts = TinyParts()
    job = encoded(parts, mode="causal", steps=9)
    asked = encoded(parts, mode="causal", steps=9)
    sampling = replace(asked.request.sampling, step_cache=100.0, guidance_gate=0.1)
    asked.request = replace(asked.request, sampling=sampling)
    denoise = DenoiseCausal("toy", parts.experts, CPU)
    finish(denoise, job)
    finish(denoise, asked)
    assert torch.equal(result(job), result(asked))
