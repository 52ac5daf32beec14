"""What the steps of one trajectory use again of earlier ones. No torch at run time, as in `guidance`.

- Step cache: a step whose output is predicted to differ little from the last one computed takes that one's
  residual and runs no forward (EasyCache, 2507.02860). The rule reads input and output of the whole network
  in its conditional branch, and holds for both branches.
- Guidance gate: late steps run the conditional branch alone and use the last difference of the two again
  (after Adaptive Guidance, 2312.12487).

Shapes: x, the network's input (latents), and y, its output (velocity), are float32 [1, C, T, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rushes.sampling.guidance import cfg
from rushes.trace import event, is_on
from rushes.types import SamplingParams

if TYPE_CHECKING:
    from torch import Tensor

MIN_STEPS = 9
"""With fewer steps two neighbours differ too much: nothing is used again."""

WARM_UP = 0.2
"""Share of the steps, the first ones, that are always computed: they lay out the clip."""

NUM_LAST = 2
"""So many steps at the end are always computed: there the residual changes fastest."""


WITHIN, BEYOND = "predicted error within the limit", "predicted error beyond the limit"
ALWAYS = "computed in any case"
"""Why a step is used again or computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCache:
    """What a trajectory remembers of its steps under one noise expert; `StepCache()` remembers nothing.

    Attributes:
        last_latents: x of the step before, computed or not.
        latents, velocity: x and y of the last step computed, y of the conditional branch.
        gain: k / mean|y|, a scalar on the device: the relative change of y for every unit of change of x, as
            the last two steps computed tell.
        error: predicted change of y since the last step computed, summed over the steps.
        guidance: conditional minus unconditional y of the last step that ran both.
    """

    last_latents: Tensor | None = None
    latents: Tensor | None = None
    velocity: Tensor | None = None
    gain: Tensor | None = None
    error: float = 0.0
    guidance: Tensor | None = None

    def to_tensors(self) -> dict[str, Tensor]:
        """The tensors by name; `error` is stored beside them."""
        named = {
            "last_latents": self.last_latents,
            "latents": self.latents,
            "velocity": self.velocity,
            "gain": self.gain,
            "guidance": self.guidance,
        }
        return {name: tensor.contiguous() for name, tensor in named.items() if tensor is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], error: float) -> StepCache:
        """The inverse of `to_tensors`."""
        return cls(
            last_latents=tensors.get("last_latents"),
            latents=tensors.get("latents"),
            velocity=tensors.get("velocity"),
            gain=tensors.get("gain"),
            error=error,
            guidance=tensors.get("guidance"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one job runs of its next step.

    Attributes:
        runs_conditional, runs_unconditional: these forwards.
        error: `StepCache.error` after a step that runs none.
        why: it runs what it runs; empty where nothing is ever used again.
    """

    runs_conditional: bool
    runs_unconditional: bool
    error: float = 0.0
    why: str = ""


def new_cache(sampling: SamplingParams) -> StepCache | None:
    """What a trajectory begins with, once more under its second expert; None where it uses nothing again."""
    is_on = sampling.step_cache > 0 or sampling.guidance_gate < 1
    return StepCache() if is_on and sampling.num_inference_steps >= MIN_STEPS else None


def predicted_change(
    cache: StepCache | None, sampling: SamplingParams, step: int, latents: Tensor
) -> Tensor | None:
    """The relative change of y that the change of x since the step before lets expect: a scalar on the
    device, None at a step that is computed in any case."""
    num_steps = sampling.num_inference_steps
    if cache is None or not WARM_UP * num_steps <= step < num_steps - NUM_LAST:
        return None
    if cache.gain is None or cache.last_latents is None:
        return None
    return cache.gain * _mean(latents - cache.last_latents)


def plan_step(
    cache: StepCache | None, sampling: SamplingParams, step: int, *, change: float | None, is_guided: bool
) -> Plan:
    """What the step runs.

    Args:
        change: the value of `predicted_change`.
        is_guided: this noise expert's scale is not 1.
    """
    if cache is None:
        return Plan(runs_conditional=True, runs_unconditional=is_guided)
    error = cache.error + (math.inf if change is None else change)
    if error < sampling.step_cache:  # never for NaN, which comes of two equal inputs
        return Plan(runs_conditional=False, runs_unconditional=False, error=error, why=WITHIN)
    is_gated = step >= sampling.guidance_gate * sampling.num_inference_steps
    is_owed = cache.guidance is None
    return Plan(
        runs_conditional=True,
        runs_unconditional=is_guided and (is_owed or not is_gated),
        why=ALWAYS if change is None else BEYOND,
    )


def tell_plan(cache: StepCache | None, plan: Plan, step: int, change: float | None) -> None:
    """A span event of what the step runs and why; none where nothing is ever used again. Arguments as of
    `plan_step`."""
    if cache is None or not is_on():
        return
    event(
        "step_cache",
        step=step,
        outcome="computed" if plan.runs_conditional else "reused",
        why=plan.why,
        predicted_error=None if change is None else cache.error + change,
        runs_unconditional=plan.runs_unconditional,
    )


def take_step(
    cache: StepCache | None,
    plan: Plan,
    sampling: SamplingParams,
    latents: Tensor,
    *,
    conditional: Tensor | None,
    unconditional: Tensor | None,
    scale: float,
) -> tuple[Tensor, StepCache | None]:
    """The guided velocity at `latents`, and the cache for the next step.

    Args:
        conditional, unconditional: y of the forwards that `plan` names, None for those that it does not.
        scale: of guidance.
    """
    if cache is None:
        assert conditional is not None
        velocity = conditional if unconditional is None else cfg(conditional, unconditional, scale)
        return velocity, None
    if conditional is None:
        conditional = _reused(cache, latents)
        cache = replace(cache, last_latents=latents, error=plan.error)
    elif sampling.step_cache > 0:
        cache = _computed(cache, latents, conditional)
    if unconditional is not None:
        guided = cfg(conditional, unconditional, scale)
        return guided, replace(cache, guidance=conditional - unconditional)
    if cache.guidance is None:
        return conditional, cache
    return conditional + (scale - 1) * cache.guidance, cache


def _reused(cache: StepCache, latents: Tensor) -> Tensor:
    """y = x + (y - x) of the last step computed."""
    assert cache.latents is not None
    assert cache.velocity is not None
    return latents + (cache.velocity - cache.latents)


def _computed(cache: StepCache, latents: Tensor, velocity: Tensor) -> StepCache:
    # A copy: the velocity is a part of its batch, which it would keep alive.
    velocity = velocity.clone().contiguous()
    gain = None
    if cache.latents is not None and cache.velocity is not None:
        k = _mean(velocity - cache.velocity) / _mean(latents - cache.latents)
        gain = k / _mean(velocity)
    return replace(cache, last_latents=latents, latents=latents, velocity=velocity, gain=gain, error=0.0)


def _mean(tensor: Tensor) -> Tensor:
    return tensor.abs().mean()
