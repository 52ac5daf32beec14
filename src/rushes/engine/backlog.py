"""Work that is accepted and not done, as admission sees it: of a scheduler, or summed up from a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rushes.types import Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """A snapshot.

    Attributes:
        at: when, in seconds of whatever clock the caller uses throughout.
        seconds: predicted device seconds still to be done, by lane and tenant.
        unit_s: of the longest unit that runs, which nobody can interrupt.
    """

    at: float
    seconds: Mapping[tuple[Lane, str], float] = field(default_factory=dict)
    unit_s: float = 0.0

    def of_lane(self, lane: Lane) -> float:
        """Seconds of a lane."""
        return sum(seconds for (name, _), seconds in self.seconds.items() if name == lane)

    def of_tenant(self, lane: Lane, tenant: str) -> float:
        """Seconds of a tenant in a lane."""
        return self.seconds.get((lane, tenant), 0.0)
