"""News between processes that the store of jobs has changed. Losing them costs time, nothing else."""

from __future__ import annotations

from typing import Protocol


class Bell(Protocol):
    """Wakes those who wait for news, in every process that has the same bell; for any number of threads.

    A ring may be lost, and several may be heard as one, so whoever waits looks at the store each time that
    `wait` returns, and gives it a time after which looking is due anyway. Never raises.
    """

    def ring(self) -> None:
        """The store has changed. Takes no time worth mentioning, whatever became of the bell."""

    def wait(self, timeout_s: float) -> bool:
        """Return at the first ring since the last call, at once if there was one; true then. False after
        `timeout_s`, in which nobody was heard. From one thread at a time."""

    def close(self) -> None:
        """Let go of connections; `wait` returns."""
