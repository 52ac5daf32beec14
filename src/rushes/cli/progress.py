"""A bar per stage on stderr while a clip is made; nothing when stderr is not a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rushes import types


class ProgressBars:
    """A context manager whose `update` is the `on_progress` of `Model.generate` and `Model.stream`.

    Args:
        waiting: what to show until the first stage reports.
        console: where to draw; stderr by default.
    """

    def __init__(self, waiting: str, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._waiting: TaskID | None = self._bars.add_task(waiting, total=None)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressBars:
        try:
            self._bars.start()
        except BaseException:  # Ctrl-C: the bars hold the cursor and stderr by now
            self._bars.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, progress: types.Progress) -> None:
        """Show that a stage has done one more unit."""
        if self._waiting is not None:
            self._bars.remove_task(self._waiting)
            self._waiting = None
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bars.add_task(progress.stage, total=progress.total)
        self._bars.update(self._tasks[progress.stage], completed=progress.units, total=progress.total)
