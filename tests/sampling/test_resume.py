"""A job stored after any step and taken up again ends bit-equal; steps neither write to inputs nor wait."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from rushes.sampling.history import History
from rushes.sampling.noise import initial_noise, step_generator
from rushes.sampling.schedules import Schedule, fixed_schedule
from rushes.sampling.solvers import SOLVERS, load_solver

SHAPE = (1, 4, 2, 4, 4)
NUM_STEPS = 5
SEED = 11


def velocity_of(latents: torch.Tensor, timestep: float) -> torch.Tensor:
    return torch.sin(3 * latents + timestep / 300)


def run(
    name: str, schedule: Schedule, latents: torch.Tensor, history: History | None, start: int, stop: int
) -> tuple[torch.Tensor, History | None]:
    step = load_solver(name).step
    for index in range(start, stop):
        velocity = velocity_of(latents, schedule.timesteps[index])
        generator = step_generator(SEED, index)
        latents, history = step(velocity, latents, schedule.sigmas, index, history, generator)
    return latents, history


@pytest.mark.parametrize("name", SOLVERS.names())
def test_resume_is_bit_equal(name: str, tmp_path: Path) -> None:
    schedule = load_solver(name).schedule(NUM_STEPS, 5.0)
    noise = initial_noise(SHAPE, SEED)
    whole, _ = run(name, schedule, noise, None, 0, NUM_STEPS)
    for stop in range(1, NUM_STEPS):
        latents, history = run(name, schedule, noise, None, 0, stop)
        stored = {} if history is None else history.to_tensors()
        save_file({"latents": latents, **stored}, tmp_path / "job.safetensors")
        loaded = load_file(tmp_path / "job.safetensors")
        latents = loaded.pop("latents")
        resumed, _ = run(
            name, schedule, latents, History.from_tensors(loaded) if loaded else None, stop, NUM_STEPS
        )
        assert torch.equal(resumed, whole), stop


def test_history_of_a_view_is_stored_whole() -> None:
    latents = initial_noise((1, 2, 4, 4, 3), SEED).transpose(2, 4)
    _, history = load_solver("unipc").step(latents.cos(), latents, (0.9, 0.5, 0.0), 0, None)
    again = History.from_tensors({name: tensor.clone() for name, tensor in history.to_tensors().items()})
    assert torch.equal(again.last_latents, history.last_latents)
    assert [torch.equal(*pair) for pair in zip(again.clean, history.clean, strict=True)] == [True]
    assert again.order == history.order == 1
    assert all(tensor.is_contiguous() for tensor in history.to_tensors().values())


@pytest.mark.parametrize("name", SOLVERS.names())
def test_a_step_leaves_its_inputs_alone(name: str) -> None:
    schedule = load_solver(name).schedule(NUM_STEPS, 5.0)
    latents, history = run(name, schedule, initial_noise(SHAPE, SEED), None, 0, 3)
    velocity = velocity_of(latents, schedule.timesteps[3])
    tensors = {"latents": latents, "velocity": velocity, **(history.to_tensors() if history else {})}
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    load_solver(name).step(velocity, latents, schedule.sigmas, 3, history, step_generator(SEED, 3))
    assert all(torch.equal(tensor, before[key]) for key, tensor in tensors.items())


class Operations(TorchDispatchMode):
    """Records the name of every tensor operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SOLVERS.names())
def test_a_step_is_few_operations_and_reads_no_value(name: str) -> None:
    schedule = load_solver(name).schedule(NUM_STEPS, 5.0)
    latents, history = run(name, schedule, initial_noise(SHAPE, SEED), None, 0, 3)
    velocity = velocity_of(latents, schedule.timesteps[3])
    with Operations() as operations:
        load_solver(name).step(velocity, latents, schedule.sigmas, 3, history, step_generator(SEED, 3))
    assert 0 < len(operations.names) <= 24, operations.names
    assert not [op for op in operations.names if "_local_scalar_dense" in op or "item" in op]


@pytest.mark.parametrize("name", SOLVERS.names())
def test_half_precision_velocity_keeps_float32_latents(name: str) -> None:
    solver = load_solver(name)
    noise = initial_noise(SHAPE, SEED)
    velocity = velocity_of(noise, 999.0).bfloat16()
    sigmas = solver.schedule(NUM_STEPS, 5.0).sigmas
    low, _ = solver.step(velocity, noise, sigmas, 0, None, step_generator(SEED, 0))
    full, _ = solver.step(velocity.float(), noise, sigmas, 0, None, step_generator(SEED, 0))
    assert low.dtype == torch.float32
    assert torch.equal(low, full)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_fixed_timesteps_from_pure_noise_stay_finite(name: str) -> None:
    """Log-SNR is infinite at both ends, t = 1000 and t = 0."""
    schedule = fixed_schedule((1000.0, 937.5, 833.25, 625.0))
    latents, _ = run(name, schedule, initial_noise(SHAPE, SEED), None, 0, len(schedule))
    assert torch.isfinite(latents).all()


def test_a_linear_flow_is_solved_exactly() -> None:
    """On straight paths (one clean point) every solver lands on it, however few its steps."""
    clean = initial_noise(SHAPE, 1)
    for name in SOLVERS.names():
        schedule = load_solver(name).schedule(3, 5.0)
        latents, history = initial_noise(SHAPE, SEED), None
        for index, sigma in enumerate(schedule.sigmas[:-1]):
            velocity = (latents - clean) / sigma
            generator = step_generator(SEED, index)
            latents, history = load_solver(name).step(
                velocity, latents, schedule.sigmas, index, history, generator
            )
        torch.testing.assert_close(latents, clean, atol=1e-5, rtol=0)


def test_step_noise_depends_on_seed_and_index_only() -> None:
    def draw(seed: int, index: int) -> torch.Tensor:
        return torch.randn(1000, generator=step_generator(seed, index))

    assert torch.equal(draw(7, 2), draw(7, 2))
    streams = [draw(7, 2), draw(7, 3), draw(8, 2), initial_noise((1000,), 7)]
    correlation = torch.corrcoef(torch.stack(streams)) - torch.eye(4)
    assert correlation.abs().max() < 0.15


def test_lcm_needs_noise_but_for_its_last_step() -> None:
    latents = initial_noise(SHAPE, SEED)
    last, _ = load_solver("lcm").step(latents, latents, (0.9, 0.5, 0.0), 1, None)
    assert torch.equal(last, 0.5 * latents)
    with pytest.raises(AssertionError, match="step_generator"):
        load_solver("lcm").step(latents, latents, (0.9, 0.5, 0.0), 0, None)
