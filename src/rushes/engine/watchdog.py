"""Tells units that hang from those that only take their time."""

from __future__ import annotations

from collections.abc import Sequence

from rushes.engine.tasks import InFlight


class Watchdog:
    """Counts the seconds in which units were seen running.

    Args:
        factor, floor_s: see `WorkerPolicy.hang_factor`.
    """

    def __init__(self, factor: float, floor_s: float) -> None:
        self._factor, self._floor_s = factor, floor_s
        self._watched_s: dict[InFlight, float] = {}

    def look(self, units: Sequence[InFlight], seconds: float) -> list[tuple[InFlight, float]]:
        """Units that hang, and how long each has been seen.

        Args:
            units: all that run now; those that have not begun are not counted.
            seconds: since the last look.
        """
        begun = [unit for unit in units if unit.began_at is not None]
        self._watched_s = {unit: self._watched_s.get(unit, 0.0) + seconds for unit in begun}
        return [
            (unit, watched_s) for unit, watched_s in self._watched_s.items() if self._hangs(unit, watched_s)
        ]

    def _hangs(self, unit: InFlight, watched_s: float) -> bool:
        return watched_s > max(self._floor_s, self._factor * unit.predicted_s)
