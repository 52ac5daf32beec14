"""Corrects the memory model by what the device really held at most while jobs ran."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

import torch

from rushes.engine.memory import DeviceMemory
from rushes.types import GenerateRequest

STAGES = frozenset(("denoise", "vae_decode"))
"""One of these needs most of every clip."""


class PeakMeter(Protocol):
    """Measures a device."""

    def take(self) -> int | None:
        """Most bytes allocated at a time since the last call, weights included; None where that is not
        known."""


class NoMeter:
    """Of a host, whose memory other programs share, and of a process whose peak others read."""

    def take(self) -> None:
        """See `PeakMeter`."""


class CudaMeter:
    """Of a CUDA device. It resets PyTorch's peak, so nobody else of the process can read one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def take(self) -> int:
        """See `PeakMeter`."""
        peak = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return peak


class PeakWatch:
    """Tells a memory model of peaks, unit by unit. Safe for threads.

    A peak above the prediction for the jobs that were on the device counts at once. One below it says
    something only about a clip that nothing ran beside from its first step to its last frame: the prediction
    is for the worst moment of a job's life, and most units are not that.
    """

    def __init__(self, memory: DeviceMemory, meter: PeakMeter) -> None:
        self._memory, self._meter = memory, meter
        meter.take()  # what loading the weights took is no job's
        self._lock = threading.Lock()
        self._before: dict[str, GenerateRequest] = {}
        self._alone: str | None = None
        self._most = 0
        self._stages: set[str] = set()

    def unit(self, stage: str, begun: Mapping[str, GenerateRequest], *, is_last: bool) -> None:
        """A unit is over.

        Args:
            begun: by id, all jobs that hold memory now.
            is_last: it finished its clip.
        """
        with self._lock:
            peak = self._meter.take()
            if peak is None:
                return
            # A job that left since the last unit was there for a part of the time.
            there = {**self._before, **begun}
            self._before = dict(begun)
            self._follow(stage, there, peak)
            requests = list(there.values())
            is_whole = is_last and len(there) == 1 and self._stages >= STAGES
            if is_whole or peak > self._memory.needed_bytes(requests):
                self._memory.observe(requests, self._most if is_whole else peak)

    def _follow(self, stage: str, there: Mapping[str, GenerateRequest], peak: int) -> None:
        alone = next(iter(there)) if len(there) == 1 else None
        if alone != self._alone:
            self._alone, self._most, self._stages = alone, 0, set()
        self._most = max(self._most, peak)
        self._stages.add(stage)
