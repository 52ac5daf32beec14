"""Runs that are not scheduled yet: those without room on the device, and those that must be alone on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from rushes.engine.run import Run

MOST_PASSED = 16
"""So many later runs may begin before one that has no room; then nobody passes it."""

MayBegin = Callable[[Run, Sequence[Run]], bool]
"""Whether the device has room for a run beside those that have begun."""


class WaitingRoom:
    """Not safe for threads: the runner locks."""

    def __init__(self, may_begin: MayBegin) -> None:
        self._may_begin = may_begin
        self._parked: list[Run] = []
        self._lonely: deque[Run] = deque()

    def __contains__(self, run: object) -> bool:
        return run in self._parked or run in self._lonely

    @property
    def wants_silence(self) -> bool:
        """Whether a run waits for a device on which nothing else runs."""
        return bool(self._lonely)

    def park(self, run: Run) -> None:
        """It begins when there is room for it."""
        self._parked.append(run)

    def isolate(self, run: Run) -> None:
        """Its next unit is to run with nothing beside it."""
        self._lonely.append(run)

    def remove(self, run: Run) -> None:
        """It has ended."""
        for waiting in (self._parked, self._lonely):
            if run in waiting:
                waiting.remove(run)

    def lonely(self) -> Run | None:
        """The first that is to be alone."""
        return self._lonely[0] if self._lonely else None

    def begun(self, runs: Sequence[Run]) -> list[Run]:
        """Those of the runs that have begun and not ended."""
        return [run for run in runs if not run.is_over and run not in self._parked]

    def next(self, runs: Sequence[Run]) -> Run | None:
        """Take out the run that begins now: interactive ones first, then in order. Of those without room, an
        interactive one is passed by nobody, another one `MOST_PASSED` times.

        Args:
            runs: all that have not ended, those that wait included.
        """
        begun = self.begun(runs)
        passed: list[Run] = []
        for run in sorted(self._parked, key=lambda run: run.options.lane != "interactive"):
            if self._may_begin(run, begun):
                for other in passed:
                    other.num_passed += 1
                self._parked.remove(run)
                return run
            if run.options.lane == "interactive" or run.num_passed >= MOST_PASSED:
                return None
            passed.append(run)
        return None
