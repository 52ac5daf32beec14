"""Levels as steps of schedules, without a solver."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rushes.pipelines.rules import load_rules, resolve
from rushes.sampling.levels import LEVELS, SCHEDULES, schedule_of, step_at, steps_at
from rushes.sampling.schedules import unipc_schedule
from rushes.sampling.solvers import SOLVERS, load_solver, schedule_for


def test_schedules_are_those_of_the_solvers() -> None:
    assert set(SCHEDULES) == set(SOLVERS.names())
    assert all(load_solver(name).schedule is schedule for name, schedule in SCHEDULES.items())


@pytest.mark.parametrize("solver", [*SCHEDULES])
@pytest.mark.parametrize("timesteps", [None, (1000.0, 750.0, 500.0)])
def test_a_schedule_without_a_solver_is_the_solvers(solver: str, timesteps: tuple[float, ...] | None) -> None:
    sampling = resolve(load_rules("toy"), "a dog").sampling
    sampling = replace(sampling, solver=solver, timesteps=timesteps)
    assert schedule_of(sampling) == schedule_for(sampling)


def test_a_level_is_the_first_step_at_or_below_it() -> None:
    schedule = unipc_schedule(20, 3.0)
    for level in LEVELS:
        step = step_at(schedule, level)
        assert step is not None
        assert schedule.sigmas[step] <= level < schedule.sigmas[step - 1]
        assert step_at(schedule, schedule.sigmas[step]) == step, "its own level is itself"


def test_there_is_nothing_to_go_on_from_at_either_end() -> None:
    schedule = unipc_schedule(4, 3.0)
    assert step_at(schedule, 1.0) is None
    assert step_at(schedule, schedule.sigmas[-2] / 2) is None


def test_the_low_noise_expert_takes_up_nothing() -> None:
    schedule = unipc_schedule(40, 12.0)
    steps = steps_at(schedule, LEVELS, 0.875)
    assert len(steps) == 3
    assert all(schedule.timesteps[step] >= 875 for step in steps)


def test_levels_between_two_steps_are_one() -> None:
    assert steps_at(unipc_schedule(4, 3.0), (0.89, 0.8)) == {2}
