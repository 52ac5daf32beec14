"""The solvers by name. Listing and checking names imports no torch; loading one does."""

from __future__ import annotations

from rushes.registry import Registry
from rushes.sampling.base import Solver
from rushes.sampling.schedules import Schedule, fixed_schedule
from rushes.types import SamplingParams

SOLVERS = Registry(
    "solver",
    {
        "euler": "rushes.sampling.euler:EULER",
        "unipc": "rushes.sampling.unipc:UNIPC",
        "dpmpp-2m": "rushes.sampling.dpmpp:DPMPP_2M",
        "ddim": "rushes.sampling.euler:DDIM",
        "lcm": "rushes.sampling.lcm:LCM",
    },
    group="rushes.solvers",
)


def load_solver(name: str) -> Solver:
    """The solver of this name. Raises `UnknownName`, or `ConfigError` when a plug-in cannot load.

    Example:
        >>> from rushes.sampling.solvers import load_solver
        >>> load_solver("unipc").schedule(4, 3.0).timesteps
        (999.0, 900.0, 750.0, 500.0)
    """
    solver: Solver = SOLVERS.load(name)
    return solver


def schedule_for(sampling: SamplingParams) -> Schedule:
    """The schedule these parameters ask for: their fixed timesteps, or the solver's for steps and shift."""
    if sampling.timesteps is not None:
        return fixed_schedule(sampling.timesteps)
    return load_solver(sampling.solver).schedule(sampling.num_inference_steps, sampling.flow_shift)
