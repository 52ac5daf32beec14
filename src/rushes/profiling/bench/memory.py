"""The most memory that this process has held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


def peak_host_bytes() -> int:
    """Resident memory at its highest.

    On Linux that is VmHWM: getrusage's figure would, in a fresh process, include what the one that started it
    held at that time.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_bytes(device: torch.device) -> int | None:
    """Allocated at its highest since the process began; None where there is no CUDA device."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
