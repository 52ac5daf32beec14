"""In which phase of a trajectory a forward runs, so that a pass can treat some steps otherwise than others.

A phase is a set of labels. It is a function of step numbers alone, taken on the host: nothing waits for the
device, and what a job gets does not depend on the jobs beside it, since jobs of different phases never share
a forward. The empty phase is the network as it was loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from torch import Tensor, nn

from rushes.ops.patch import Size3

Phase = tuple[str, ...]
"""Labels, sorted; a tuple, as compiled code compares it between calls."""

PLAIN: Phase = ()

FEW_STEPS = 8
"""Up to this many steps a share of them means one step."""

_SHIFTS = tuple(half / 2 for half in range(2, 25))
"""Flow shifts 1 to 12, which decide where in [0, 1000] the timesteps of a trajectory lie."""


class PhaseRule(Protocol):
    """What a pass leaves with a network, to say which of its labels hold at a step."""

    def labels(self, step: int, num_steps: int, timestep: float) -> Phase:
        """Labels that hold at `step` (from 0) of `num_steps`, which is told `timestep` in [0, 1000]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MiddleSteps:
    """A label that holds except in the first and the last steps.

    Attributes:
        first: share of the steps at the start in which it does not hold, see `num_steps_of`.
        last: the same for the end.

    Example:
        >>> rule = MiddleSteps(label="sparse", first=0.25)
        >>> [rule.labels(step, 4, 0.0) for step in range(3)]
        [(), ('sparse',), ('sparse',)]
    """

    label: str
    first: float = 0.0
    last: float = 0.0

    def labels(self, step: int, num_steps: int, timestep: float) -> Phase:
        """See `PhaseRule`."""
        begin, end = num_steps_of(self.first, num_steps), num_steps - num_steps_of(self.last, num_steps)
        return (self.label,) if begin <= step < end else PLAIN


GridKernel = Callable[[Tensor, Tensor, Tensor, Size3], Tensor]
"""q, k, v [B, N, H, D] of a grid of (frames, rows, columns) tokens -> [B, N, H, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseKernel:
    """A kernel that takes a self-attention's place while `label` is part of the phase; None: always.

    Clips that are denoised frame by frame, and causal masks, keep the layer's own kernel. A kernel is printed
    by its settings, without an address, as caches of compiled code are keyed by that.
    """

    label: str | None
    kernel: GridKernel


class PhaseLinear(nn.Module):
    """A linear layer that computes otherwise from phase to phase: called with x and the phase."""


def num_steps_of(share: float, num_steps: int) -> int:
    """A share of the steps: none for 0, else at least one, and exactly one of at most `FEW_STEPS`.

    Example:
        >>> [num_steps_of(0.25, n) for n in (4, 8, 40)], num_steps_of(0.001, 40), num_steps_of(0.0, 40)
        ([1, 1, 10], 1, 0)
    """
    if share == 0:
        return 0
    return 1 if num_steps <= FEW_STEPS else max(1, round(share * num_steps))


def phase_of(rules: tuple[PhaseRule, ...], step: int, num_steps: int, timestep: float) -> Phase:
    """The labels of all rules."""
    return tuple(sorted({label for rule in rules for label in rule.labels(step, num_steps, timestep)}))


@lru_cache(maxsize=16)
def phases_of(rules: tuple[PhaseRule, ...]) -> tuple[Phase, ...]:
    """The phases of trajectories of up to 50 steps under every usual flow shift, each once."""
    if not rules:
        return (PLAIN,)
    found = (
        phase_of(rules, step, num_steps, 1000 * shift * left / (1 + (shift - 1) * left))
        for num_steps in (4, 50, *range(1, 50))
        for step in range(num_steps)
        for left in (1 - step / num_steps,)
        for shift in _SHIFTS
    )
    return tuple(dict.fromkeys(found))
