"""The interface of a solver. No torch at run time: names, schedules and docs are read without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from rushes.sampling.history import History
    from rushes.sampling.schedules import Schedule


class Step(Protocol):
    """One solver update, a pure function: the inputs are never written to.

    Args:
        velocity: model output v = noise - clean [B, C, T, H, W] at `sigmas[index]`, any float dtype.
        latents: float32 [B, C, T, H, W] at `sigmas[index]`.
        sigmas: `Schedule.sigmas`.
        index: step to take, 0 .. len(sigmas) - 2.
        history: what the previous step returned, None before the first.
        generator: source of the noise that a stochastic solver adds (`noise.step_generator(seed, index)`);
            a deterministic solver ignores it.

    Returns:
        float32 latents at `sigmas[index + 1]`, and the history for the next step.

    Host arithmetic is on Python floats: no step reads a tensor's value, so none waits for the device.
    """

    def __call__(
        self,
        velocity: torch.Tensor,
        latents: torch.Tensor,
        sigmas: Sequence[float],
        index: int,
        history: History | None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, History | None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Solver:
    """An integrator of dx/dsigma = v and the schedule it is run on.

    Attributes:
        title: one line for lists and docs.
        schedule: (num_steps, shift) -> Schedule.
        step: the update.
        is_stochastic: `step` needs a generator.
    """

    name: str
    title: str
    schedule: Callable[[int, float], Schedule]
    step: Step
    is_stochastic: bool = False
