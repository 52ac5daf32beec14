"""Where the frames of a job go, and the thread that brings them there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from rushes.types import Frames


class Outlet(Protocol):
    """Takes the frames of one job, in order, from one thread. Slow ones delay nobody but themselves."""

    def write(self, frames: Frames) -> None:
        """The next frames. Raises `OutputError` or `StoreError` when they cannot be kept: the job fails."""

    def finish(self) -> str:
        """All frames were written: the name of the result, complete and durable."""

    def committed(self) -> None:
        """The job's end is written: nothing will be aborted any more. Follows `finish`; must not raise."""

    def abort(self) -> None:
        """The job ends without a result: leave nothing behind. May follow `finish` when the job's end could
        not be committed."""


class Courier:
    """Runs what concerns one job's output in order, on a thread of its own, beside the device's work.

    The first error ends the delivery: nothing more is run, and `on_error` is told.
    """

    def __init__(self, name: str, on_error: Callable[[Exception], None]) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"courier-{name}")
        self._on_error = on_error
        self._closing = threading.Lock()
        self._is_closed = False
        self._num_sent = self._num_begun = 0
        self._ended = threading.Event()

    @property
    def is_last(self) -> bool:
        """Of a task that asks while it runs: whether nothing has been sent behind it."""
        return self._num_begun == self._num_sent

    def send(self, task: Callable[[], None], *, always: Callable[[], None] | None = None) -> None:
        """Run `task` behind everything sent before; returns at once. Once closed, no task is run any more,
        but what was sent as `always` is."""
        with self._closing:
            if not self._is_closed:
                self._num_sent += 1
                self._pool.submit(self._run, task, always)
                return
        if always is not None:
            always()

    def close(self, last: Callable[[], None] | None = None) -> None:
        """Skip what has not begun, run `last` behind what has, and end the thread. Does not wait; a second
        call does nothing."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            self._pool.submit(self._end, last)
            self._pool.shutdown(wait=False)

    def join(self) -> None:
        """Wait until it is closed and its thread has nothing more to do."""
        self._ended.wait()

    def _run(self, task: Callable[[], None], always: Callable[[], None] | None) -> None:
        self._num_begun += 1
        try:
            if not self._is_closed:
                task()
        except Exception as error:  # the border to files and stores: whatever it is, it ends this job only
            self._on_error(error)
        finally:
            if always is not None:
                always()

    def _end(self, last: Callable[[], None] | None) -> None:
        try:
            if last is not None:
                last()
        finally:
            self._ended.set()
