"""How far a stored clip may be taken up: the more alike the prompts, the less noise has to be put back.

The steps are calibrated by how well clips that were taken up keep to the new prompt (docs/reuse.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rushes.errors import ConfigError
from rushes.reuse.entries import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Stair:
    """From this similarity on, a clip may be taken up at this noise level, not lower."""

    similarity: float
    sigma: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Staircase:
    """From similarity to the lowest noise level at which to go on.

    Attributes:
        stairs: by rising similarity; sigma never rises with it.

    Raises:
        ConfigError: a value is out of range or out of order.

    Example:
        >>> stairs = Staircase(stairs=(Stair(similarity=0.92, sigma=0.9), Stair(similarity=0.98, sigma=0.7)))
        >>> stairs.lowest_sigma(0.99), stairs.lowest_sigma(0.95), stairs.lowest_sigma(0.5)
        (0.7, 0.9, None)
        >>> stairs.lowest_sigma(0.99, boundary=0.875)
        0.875
    """

    stairs: tuple[Stair, ...]

    def __post_init__(self) -> None:
        for stair in self.stairs:
            if not (-1 <= stair.similarity <= 1 and 0 < stair.sigma <= 1):
                raise ConfigError(f"staircase: {stair} must have similarity in [-1, 1], sigma in (0, 1]")
        for low, high in zip(self.stairs, self.stairs[1:], strict=False):
            if not (low.similarity < high.similarity and low.sigma >= high.sigma):
                raise ConfigError(f"staircase: {high} after {low}: similarity must rise, sigma must not")

    def lowest_sigma(self, similarity: float, *, boundary: float | None = None) -> float | None:
        """None when the prompts are not alike enough for any.

        Args:
            boundary: noise level at and above which the high-noise expert runs; it has to have its part in
                every clip. None for one expert.
        """
        allowed = [stair.sigma for stair in self.stairs if similarity >= stair.similarity]
        return max(allowed[-1], boundary or 0.0) if allowed else None


STAIRCASE = Staircase(
    stairs=(
        Stair(similarity=0.92, sigma=0.9),
        Stair(similarity=0.96, sigma=0.7),
        Stair(similarity=0.985, sigma=0.5),
    )
)
"""Calibrated on the toy by `benchmarks.reuse_quality`: prompts of one meaning keep their adherence at every
level down to 0.35, while two seeds grow alike; the lower, the surer one should be of the meaning."""


SEEDED_SIGMA = 0.97
"""Below the first step at or below this level nobody who named a seed is sent, so that two seeds that go on
from one clip stay within 3 dB (PSNR) of two fresh ones: at 0.944 they are 3.6 dB nearer (docs/reuse.md)."""


def pick_step(sigmas: Sequence[float], lowest_sigma: float) -> int:
    """The latest solver step of a schedule that starts at or above a noise level: so many steps are saved.

    Args:
        sigmas: noise level before each step, falling, and the terminal 0 (`Schedule.sigmas`).

    Example:
        >>> pick_step((1.0, 0.9, 0.75, 0.5, 0.0), 0.75)
        2
    """
    return max(sum(sigma >= lowest_sigma for sigma in sigmas) - 1, 0)


def pick_snapshot(snapshots: Sequence[Snapshot], lowest_sigma: float) -> Snapshot | None:
    """The one of the least noise that is at or above a noise level: the most steps are saved."""
    allowed = [one for one in snapshots if one.sigma >= lowest_sigma]
    return min(allowed, key=lambda one: one.sigma, default=None)
