"""The rules of reuse against the same rules written out number by number, on random sequences."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch

from rushes.sampling.step_cache import (
    MIN_STEPS,
    NUM_LAST,
    WARM_UP,
    StepCache,
    new_cache,
    plan_step,
    predicted_change,
    take_step,
)
from rushes.types import SamplingParams

SIZE = 24
Numbers = list[float]


def params(*, steps: int = 20, cache: float = 0.0, gate: float = 1.0) -> SamplingParams:
    return SamplingParams(
        num_inference_steps=steps,
        solver="euler",
        flow_shift=1.0,
        guidance_high=1.0,
        guidance_low=1.0,
        seed=0,
        step_cache=cache,
        guidance_gate=gate,
    )


@dataclass
class Sequence:
    """What a network would be given and answer at every step: input, and output of both branches."""

    xs: list[Numbers]
    conditional: list[Numbers]
    unconditional: list[Numbers]


def random_sequence(num_steps: int, seed: int) -> Sequence:
    """Random walks whose strides differ from step to step."""
    source = random.Random(seed)

    def walk() -> list[Numbers]:
        numbers, found = [source.gauss(0, 1) for _ in range(SIZE)], []
        for _ in range(num_steps):
            stride = source.choice([0.01, 0.05, 0.2])
            numbers = [number + stride * source.gauss(0, 1) for number in numbers]
            found.append(numbers)
        return found

    return Sequence(xs=walk(), conditional=walk(), unconditional=walk())


def mean(numbers: Numbers) -> float:
    return sum(abs(number) for number in numbers) / len(numbers)


def minus(a: Numbers, b: Numbers) -> Numbers:
    return [m - n for m, n in zip(a, b, strict=True)]


def plus(a: Numbers, b: Numbers, scale: float = 1.0) -> Numbers:
    return [m + scale * n for m, n in zip(a, b, strict=True)]


def reference(
    sequence: Sequence, sampling: SamplingParams, scale: float, boundary: int | None
) -> tuple[list[str], list[Numbers]]:
    """What each step runs ("cu", "c" or nothing), and its guided output."""
    num_steps = sampling.num_inference_steps
    warm_up, last = WARM_UP * num_steps, num_steps - NUM_LAST
    x_before = x_ran = y_ran = k = delta = None
    error = 0.0
    runs, outputs = [], []
    for t, x in enumerate(sequence.xs):
        if t == boundary:
            x_before = x_ran = y_ran = k = delta = None
            error = 0.0
        skips = False
        if k is not None and warm_up <= t < last:
            error += k * mean(minus(x, x_before)) / mean(y_ran)
            skips = error < sampling.step_cache
        x_before = x
        if skips:
            conditional, ran = plus(x, minus(y_ran, x_ran)), ""
        else:
            conditional, ran = sequence.conditional[t], "c"
            if x_ran is not None:
                k = mean(minus(conditional, y_ran)) / mean(minus(x, x_ran))
            x_ran, y_ran, error = x, conditional, 0.0
        if scale != 1 and not skips and (delta is None or t < sampling.guidance_gate * num_steps):
            delta, ran = minus(conditional, sequence.unconditional[t]), "cu"
        runs.append(ran)
        outputs.append(conditional if delta is None else plus(conditional, delta, scale - 1))
    return runs, outputs


def tensor(numbers: Numbers) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def ours(
    sequence: Sequence, sampling: SamplingParams, scale: float, boundary: int | None
) -> tuple[list[str], list[Numbers]]:
    cache = new_cache(sampling)
    runs, outputs = [], []
    for t in range(sampling.num_inference_steps):
        x = tensor(sequence.xs[t])
        if t == boundary:
            cache = new_cache(sampling)
        change = predicted_change(cache, sampling, t, x)
        plan = plan_step(
            cache, sampling, t, change=None if change is None else float(change), is_guided=scale != 1
        )
        velocity, cache = take_step(
            cache,
            plan,
            sampling,
            x,
            conditional=tensor(sequence.conditional[t]) if plan.runs_conditional else None,
            unconditional=tensor(sequence.unconditional[t]) if plan.runs_unconditional else None,
            scale=scale,
        )
        runs.append("c" * plan.runs_conditional + "u" * plan.runs_unconditional)
        outputs.append(velocity.tolist())
    return runs, outputs


@pytest.mark.parametrize("scale", [1.0, 3.5])
@pytest.mark.parametrize("gate", [1.0, 0.5, 0.01])
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 0.5, 100.0])
def test_the_rules_are_those_written_out(threshold: float, gate: float, scale: float) -> None:
    seen = set()
    for seed in range(20):
        num_steps = random.Random(seed).randint(MIN_STEPS, 40)
        boundary = random.Random(seed).choice([None, num_steps // 2])
        sequence = random_sequence(num_steps, seed)
        sampling = params(steps=num_steps, cache=threshold, gate=gate)
        runs, outputs = ours(sequence, sampling, scale, boundary)
        expected_runs, expected = reference(sequence, sampling, scale, boundary)
        assert runs == expected_runs
        assert torch.allclose(torch.tensor(outputs), torch.tensor(expected), rtol=1e-5, atol=1e-6)
        seen |= set(runs)
    expected_kinds = {"cu" if scale != 1 else "c"}
    expected_kinds |= {""} if threshold else set()
    expected_kinds |= {"c"} if gate < 1 else set()
    assert seen >= expected_kinds


def test_warm_up_first_steps_of_an_expert_and_last_steps_are_computed() -> None:
    sequence = random_sequence(20, 1)
    runs, _ = ours(sequence, params(cache=100.0), 1.0, boundary=12)
    computed = [t for t, ran in enumerate(runs) if ran]
    # Two computed steps are needed before the rule can speak, under each expert.
    assert computed == [0, 1, 2, 3, 12, 13, 18, 19]


def test_a_closed_gate_owes_one_unconditional_forward_to_each_expert() -> None:
    runs, _ = ours(random_sequence(20, 1), params(gate=0.25), 2.0, boundary=12)
    assert [t for t, ran in enumerate(runs) if ran == "cu"] == [0, 1, 2, 3, 4, 12]
    assert set(runs) == {"cu", "c"}


@pytest.mark.parametrize(
    "sampling",
    [params(), params(steps=MIN_STEPS - 1, cache=1.0, gate=0.5), params(steps=4, gate=0.5)],
)
def test_off_is_no_state_at_all(sampling: SamplingParams) -> None:
    assert new_cache(sampling) is None
    assert set(ours(random_sequence(sampling.num_inference_steps, 1), sampling, 2.0, None)[0]) == {"cu"}


def test_from_nine_steps_on_they_are_on() -> None:
    assert new_cache(params(steps=MIN_STEPS, cache=0.1)) == StepCache()
    assert new_cache(params(steps=MIN_STEPS, gate=0.5)) == StepCache()


def test_a_gate_alone_remembers_only_what_it_needs() -> None:
    sampling, x = params(gate=0.5), torch.ones(4)
    plan = plan_step(StepCache(), sampling, 0, change=None, is_guided=True)
    _, cache = take_step(
        StepCache(), plan, sampling, x, conditional=x, unconditional=torch.zeros(4), scale=2.0
    )
    assert replace(cache, guidance=None) == StepCache()
    assert torch.equal(cache.guidance, x)


def test_an_input_that_stands_still_is_computed_not_divided_by() -> None:
    """k is 0/0, then x/0: neither lets a step skip."""
    sampling, x = params(cache=100.0), torch.ones(4)
    for conditional in (x, 2 * x):
        cache = StepCache(last_latents=x, latents=x, velocity=x)
        plan = plan_step(cache, sampling, 8, change=None, is_guided=False)
        _, cache = take_step(cache, plan, sampling, x, conditional=conditional, unconditional=None, scale=1.0)
        change = float(predicted_change(cache, sampling, 9, x))
        assert not math.isfinite(change)
        assert plan_step(cache, sampling, 9, change=change, is_guided=False).runs_conditional


def test_tensors_are_kept_whole_and_apart_from_their_batch() -> None:
    batch = torch.arange(12.0).view(3, 4)
    sampling = params(cache=0.1)
    plan = plan_step(StepCache(), sampling, 0, change=None, is_guided=False)
    _, cache = take_step(
        StepCache(), plan, sampling, torch.ones(1, 4), conditional=batch[1:2], unconditional=None, scale=1.0
    )
    assert cache.velocity.untyped_storage().nbytes() == 16
    again = StepCache.from_tensors(cache.to_tensors(), cache.error)
    assert set(again.to_tensors()) == {"last_latents", "latents", "velocity"}
    assert torch.equal(again.velocity, batch[1:2])


def test_the_rules_can_be_read_without_torch() -> None:
    code = "import sys, rushes.sampling.step_cache; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
