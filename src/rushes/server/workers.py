"""Worker processes of one machine: started, looked after, ended with the service."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rushes.engine.announcements import Roster
from rushes.engine.workplace import Workplace

LOOK_S = 0.2
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""A worker that ran so long has started well; its next death costs the shortest pause again."""

DRAIN_S = 60.0
"""How long a worker may take to finish its steps and save its jobs."""


@dataclass(slots=True, kw_only=True)
class _Child:
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = 0.5
    starts_at: float = field(default_factory=time.monotonic)


class Workers:
    """Keeps as many processes running as there are commands. A context manager.

    One that dies is started again, after a pause that doubles with each early death; its jobs go on from
    their checkpoints.

    Args:
        say: takes a line for whoever reads the terminal.
    """

    def __init__(
        self, commands: Sequence[Sequence[str]], place: Workplace, say: Callable[[str], None]
    ) -> None:
        self._children = [_Child(command=command) for command in commands]
        self._place, self._say = place, say
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workers", daemon=True)
        self._is_told = False

    def __enter__(self) -> Workers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._thread.join()
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + DRAIN_S
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _run(self) -> None:
        while not self._stops.wait(LOOK_S):
            for child in self._children:
                self._look_after(child)
            self._tell_ready()

    def _look_after(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is not None and child.process.poll() is not None:
            status, pause = child.process.returncode, child.pause_s
            self._say(f"a worker ended with status {status}; another starts in {pause:g} s")
            child.process, child.starts_at = None, now + child.pause_s
            is_steady = now - child.started_at > STEADY_S
            child.pause_s = 0.5 if is_steady else min(LONGEST_PAUSE_S, 2 * child.pause_s)
        if child.process is None and now >= child.starts_at:
            # A session of its own: Ctrl-C reaches the gateway first, which ends the workers in order.
            child.process = subprocess.Popen(child.command, start_new_session=True)
            child.started_at = now

    def _tell_ready(self) -> None:
        if self._is_told:
            return
        served = {word.pipeline for word in Roster(self._place.workers).words}
        if served:
            self._is_told = True
            self._say(f"ready: {', '.join(sorted(served))} is served")
