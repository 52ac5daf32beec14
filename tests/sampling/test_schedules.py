"""Schedules: the promises that do not need an oracle, and the distilled timesteps against their sources."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from rushes.pipelines.rules import load_rules, resolve
from rushes.sampling.guidance import is_high_noise
from rushes.sampling.schedules import (
    Schedule,
    dpmpp_schedule,
    fixed_schedule,
    shift_timesteps,
    unipc_schedule,
)
from rushes.sampling.solvers import SOLVERS, load_solver, schedule_for


def num_high(schedule: Schedule, boundary: float) -> int:
    return sum(is_high_noise(timestep, boundary) for timestep in schedule.timesteps)


@pytest.mark.parametrize("name", SOLVERS.names())
@pytest.mark.parametrize(("num_steps", "shift"), [(1, 1.0), (2, 0.5), (7, 12.0), (1000, 5.0), (1000, 100.0)])
def test_schedule_falls_from_noise_to_zero(name: str, num_steps: int, shift: float) -> None:
    schedule = load_solver(name).schedule(num_steps, shift)
    assert len(schedule) == num_steps == len(schedule.sigmas) - 1
    assert schedule.sigmas[0] > 0.998 * shift / (1 + 0.998 * (shift - 1))
    assert schedule.sigmas[-1] == 0.0
    assert all(after < before for before, after in zip(schedule.sigmas, schedule.sigmas[1:], strict=False))
    assert all(float(np.float32(sigma)) == sigma for sigma in schedule.sigmas)


def test_shift_sets_the_share_of_the_high_noise_expert() -> None:
    assert num_high(unipc_schedule(40, 12.0), 0.875) == 26
    assert num_high(unipc_schedule(40, 3.0), 0.875) == 13


def official_wan_schedule(num_steps: int, shift: float) -> tuple[list[int], list[float]]:
    """Wan-Video/Wan2.2 `FlowUniPCMultistepScheduler.set_timesteps`, as its constructor and call set it up."""
    levels = np.linspace(0.999, 0.0, num_steps + 1)[:-1]
    sigmas = shift * levels / (1 + (shift - 1) * levels)
    return (sigmas * 1000).astype(int).tolist(), [*sigmas.astype(np.float32).tolist(), 0.0]


@pytest.mark.parametrize(("num_steps", "shift"), [(4, 5.0), (40, 12.0), (50, 5.0), (50, 8.0)])
def test_official_code_agrees_on_dpmpp_and_lies_below_on_unipc(num_steps: int, shift: float) -> None:
    timesteps, sigmas = official_wan_schedule(num_steps, shift)
    ours = dpmpp_schedule(num_steps, shift)
    np.testing.assert_allclose(ours.sigmas, sigmas, atol=1e-7)
    assert ours.timesteps == tuple(timesteps)
    above = np.subtract(unipc_schedule(num_steps, shift).sigmas[1:-1], sigmas[1:-1])
    assert (above > 0).all()


def test_lightx2v_timesteps() -> None:
    """LightX2V indexes a shifted table of 1,000 levels by 1000 - position."""
    levels = np.linspace(1, 0, 1001)[:-1]
    table = 5 * levels / (1 + 4 * levels)
    expected = table[[0, 250, 500, 750]]
    rules = load_rules("wan2.2-t2v-a14b")
    schedule = schedule_for(resolve(rules, "a dog", preset="distilled-4").sampling)
    np.testing.assert_allclose(schedule.sigmas[:-1], expected, rtol=1e-7)
    np.testing.assert_allclose(schedule.timesteps, 1000 * expected, rtol=1e-7)
    assert num_high(schedule, rules.boundary) == 2


def test_fastwan_timesteps() -> None:
    """FastVideo takes the level nearest to each timestep from a table of 1,000 levels shifted by 8."""
    table = FlowMatchEulerDiscreteScheduler(shift=8.0).sigmas.numpy()
    schedule = schedule_for(resolve(load_rules("wan2.1-t2v-1.3b"), "a dog", preset="fastwan-3").sampling)
    assert schedule.timesteps == (1000.0, 757.0, 522.0)
    nearest = [table[np.abs(1000 * table - timestep).argmin()] for timestep in schedule.timesteps]
    np.testing.assert_allclose(schedule.sigmas[:-1], nearest, atol=1e-3)


def test_schedule_for_computes_from_steps_and_shift() -> None:
    sampling = resolve(
        load_rules("toy"), "a dog", solver="ddim", num_inference_steps=4, flow_shift=3.0
    ).sampling
    assert schedule_for(sampling).timesteps == shift_timesteps((1000.0, 750.0, 500.0, 250.0), 3.0)


@pytest.mark.parametrize("timesteps", [(), (1001.0,), (500.0, 0.0), (500.0, 500.0), (250.0, 500.0)])
def test_fixed_timesteps_must_fall(timesteps: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="fall strictly"):
        fixed_schedule(timesteps)
