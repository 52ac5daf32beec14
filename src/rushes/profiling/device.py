"""A device as the profiler sees it: points in its queue, when it passed them, and its peak memory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch

from rushes.profiling.bench.about import cpu_name


class Device(Protocol):
    """What runs the networks.

    Attributes:
        name: for people.
        is_async: it runs behind the host, so that a call returns before its work is done.
    """

    name: str
    is_async: bool

    def mark(self) -> Any:
        """A point in the queue, behind everything asked for so far; must be cheap."""

    def passed(self, marks: Sequence[Any]) -> list[float | None]:
        """When the device passed each mark, in seconds of `perf_counter`; None where it does not run behind.
        Waits for the device."""

    def synchronize(self) -> None:
        """Wait until everything asked for is done."""

    def reset_peak(self) -> None:
        """Forget the peak so far."""

    def peak_bytes(self) -> int:
        """Most memory held since `reset_peak`."""


class CpuDevice:
    """The host itself. Its memory is what the process holds (resident), where Linux tells."""

    is_async = False

    def __init__(self) -> None:
        self.name = f"{cpu_name()}, {torch.get_num_threads()} threads"

    def mark(self) -> None:
        """See `Device`."""
        return

    def passed(self, marks: Sequence[Any]) -> list[float | None]:
        """See `Device`."""
        return [None] * len(marks)

    def synchronize(self) -> None:
        """See `Device`."""

    def reset_peak(self) -> None:
        """See `Device`."""
        # A write of 5 resets VmHWM (Linux, Documentation/filesystems/proc.rst).
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """See `Device`; 0 where it is not known."""
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        return 0


class CudaDevice:
    """A CUDA device; marks are events on its current stream.

    Event times are laid onto the host's clock by two points at which the device stood still: one when this is
    made, one when `passed` is called. Between them the clocks are taken to run evenly.
    """

    is_async = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.name = torch.cuda.get_device_name(device)
        self._base, self._base_s = self._standstill()

    def mark(self) -> torch.cuda.Event:
        """See `Device`."""
        # Of this device, which need not be the current one: times between events of two devices are errors.
        event = _timed_event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def passed(self, marks: Sequence[Any]) -> list[float | None]:
        """See `Device`."""
        end, end_s = self._standstill()
        scale = (end_s - self._base_s) / max(self._base.elapsed_time(end), 1e-9)
        return [self._base_s + scale * self._base.elapsed_time(mark) for mark in marks]

    def synchronize(self) -> None:
        """See `Device`."""
        torch.cuda.synchronize(self._device)

    def reset_peak(self) -> None:
        """See `Device`."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        """See `Device`."""
        # `max_memory_allocated` sorts and flattens every statistic, some 0.1 ms of a stage's time.
        stats = torch.cuda.memory_stats_as_nested_dict(self._device)
        return int(stats["allocated_bytes"]["all"]["peak"]) if stats else 0

    def _standstill(self) -> tuple[torch.cuda.Event, float]:
        """An event that an idle device passes at once, and the host's time of it."""
        torch.cuda.synchronize(self._device)
        event = self.mark()
        event.synchronize()
        return event, perf_counter()


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def device_for(device: torch.device) -> Device:
    """The profiler's view of a torch device."""
    return CudaDevice(device) if device.type == "cuda" else CpuDevice()
