"""A device that runs behind the host: a thread that takes work in order and sleeps as long as it takes.

Implements the profiler's `Device` and writes, from the times that really passed, the events that Kineto would
have recorded of a GPU.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rushes.profiling.kineto import SPAN
from rushes.trace import Span

PID, HOST, GPU = 1, 10, 7
FLOPS = 2e9
"""Of every launch."""

SHAPES = {"Input Dims": [[1000, 1000], [1000, 1000]], "Input type": ["float", "float"]}


class FakeDevice:
    """A context manager; leaving it ends the thread."""

    name = "fake"
    is_async = True

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._queue: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._number = 0

    def __enter__(self) -> FakeDevice:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()

    # What a stage does with it.

    def launch(self, kernel: str, seconds: float, op: str = "aten::mm") -> None:
        """Ask for work; returns at once."""
        self._number += 1
        begin = time.perf_counter()
        self._queue.put((kernel, seconds, self._number))
        end = time.perf_counter()
        self._host("cpu_op", op, begin, end, **SHAPES)
        self._host("cuda_runtime", "cudaLaunchKernel", begin, end, correlation=self._number)

    def wait(self, op: str = "aten::item") -> None:
        """Wait for everything asked for, as reading a value back does."""
        begin = time.perf_counter()
        self._queue.join()
        end = time.perf_counter()
        self._host("cpu_op", op, begin, end)
        self._host("cuda_runtime", "cudaStreamSynchronize", begin, end)

    # The profiler's `Device`.

    def mark(self) -> list[float]:
        passed: list[float] = []
        self._queue.put(passed)
        return passed

    def passed(self, marks: Sequence[list[float]]) -> list[float | None]:
        self._queue.join()
        return [mark[0] for mark in marks]

    def synchronize(self) -> None:
        self._queue.join()

    def reset_peak(self) -> None:
        """It has no memory."""

    def peak_bytes(self) -> int:
        return 0

    def trace(self) -> dict[str, Any]:
        """What Kineto would have exported."""
        return {"traceEvents": sorted(self.events, key=lambda event: (event["ts"], -event["dur"]))}

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, list):
                item.append(time.perf_counter())
            else:
                kernel, seconds, number = item
                begin = time.perf_counter()
                time.sleep(seconds)
                self._event("kernel", kernel, begin, time.perf_counter(), GPU, correlation=number, stream=7)
            self._queue.task_done()
        self._queue.task_done()

    def _host(self, category: str, name: str, begin: float, end: float, **args: Any) -> None:
        self._event(category, name, begin, end, HOST, **args)

    def _event(self, category: str, name: str, begin: float, end: float, thread: int, **args: Any) -> None:
        self.events.append(
            {
                "ph": "X",
                "cat": category,
                "name": name,
                "pid": PID,
                "tid": thread,
                "ts": begin * 1e6,
                "dur": (end - begin) * 1e6,
                "args": args,
            }
        )


class FakeNotes:
    """A listener that writes spans among the events of a fake device, as `capture.SpanNotes` does."""

    def __init__(self, device: FakeDevice) -> None:
        self.spans: dict[int, Span] = {}
        self._device = device
        self._numbers: dict[int, tuple[int, float]] = {}

    def opened(self, span: Span) -> None:
        number = len(self.spans)
        self.spans[number] = span
        self._numbers[id(span)] = number, time.perf_counter()

    def closed(self, span: Span) -> None:
        number, begin = self._numbers[id(span)]
        self._device._host("user_annotation", f"{SPAN}{number}", begin, time.perf_counter())


@contextmanager
def fake_device() -> Iterator[FakeDevice]:
    """A fresh one."""
    with FakeDevice() as device:
        yield device
