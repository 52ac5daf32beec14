"""Every solver against diffusers' scheduler: the timesteps given to the model and every point of the path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_lcm import FlowMatchLCMScheduler

from rushes.sampling.noise import initial_noise, step_generator
from rushes.sampling.solvers import SOLVERS, load_solver

# diffusers converts tensors with a NumPy call that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = [1, 2, 3, 4, 10, 20, 40]
SHIFTS = [1.0, 3.0, 5.0, 12.0]
SHAPE = (2, 4, 3, 4, 4)
WEIGHT = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


def velocity_of(latents: torch.Tensor, timestep: float) -> torch.Tensor:
    """A small fixed non-linear velocity field that depends on position, channel and timestep."""
    mixed = torch.einsum("bcthw,cd->bdthw", latents, WEIGHT)
    return torch.tanh(mixed + timestep / 500) + 0.3 * latents


def our_path(name: str, num_steps: int, shift: float, seed: int) -> list[torch.Tensor]:
    solver = load_solver(name)
    schedule = solver.schedule(num_steps, shift)
    latents, history, path = initial_noise(SHAPE, seed), None, []
    for index, timestep in enumerate(schedule.timesteps):
        velocity = velocity_of(latents, timestep)
        generator = step_generator(seed, index)
        latents, history = solver.step(velocity, latents, schedule.sigmas, index, history, generator)
        path.append(latents)
    return path


def make_oracle(name: str, num_steps: int, shift: float):
    if name == "unipc":
        oracle = UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift, solver_order=2
        )
    elif name == "dpmpp-2m":
        oracle = DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift, solver_order=2
        )
    elif name == "lcm":
        oracle = FlowMatchLCMScheduler(shift=shift)
    else:
        oracle = FlowMatchEulerDiscreteScheduler(shift=shift)
    if name == "ddim":
        oracle.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps))
    else:
        oracle.set_timesteps(num_steps)
    return oracle


def oracle_path(name: str, num_steps: int, shift: float, seed: int) -> list[torch.Tensor]:
    oracle = make_oracle(name, num_steps, shift)
    oracle.set_begin_index(0)
    latents, path = initial_noise(SHAPE, seed), []
    for index, timestep in enumerate(oracle.timesteps):
        velocity = velocity_of(latents, float(timestep))
        noise = {"generator": step_generator(seed, index)} if name == "lcm" else {}
        latents = oracle.step(velocity, timestep, latents, return_dict=False, **noise)[0]
        path.append(latents)
    return path


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", SOLVERS.names())
def test_path_is_diffusers(name: str, shift: float) -> None:
    for num_steps in STEPS:
        seed = int(torch.randint(0, 2**31, ()))
        ours, theirs = our_path(name, num_steps, shift, seed), oracle_path(name, num_steps, shift, seed)
        errors = [relative_error(*points) for points in zip(ours, theirs, strict=True)]
        assert max(errors) <= 1e-5, (num_steps, seed, errors)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_timesteps_and_sigmas_are_diffusers(name: str) -> None:
    for num_steps in [*STEPS, 7, 50, 1000]:
        for shift in [*SHIFTS, 8.0]:
            ours = load_solver(name).schedule(num_steps, shift)
            theirs = make_oracle(name, num_steps, shift)
            tolerance = 0.0 if name in ("unipc", "dpmpp-2m") else 2e-7
            np.testing.assert_allclose(ours.sigmas, theirs.sigmas.double(), rtol=tolerance)
            np.testing.assert_allclose(ours.timesteps, theirs.timesteps.double(), rtol=tolerance)
