"""What a figure was made with and on, without which it says nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

import rushes
from rushes.types import Json

PACKAGES = ("torch", "diffusers", "transformers", "torchao", "cache-dit", "triton", "numpy", "av")


def about(device: torch.device, arguments: Sequence[str] = ()) -> dict[str, Json]:
    """Commit, versions, machine and driver.

    Args:
        arguments: the command line that asked for the figures.
    """
    return {
        "commit": commit(),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["rushes", *arguments],
        "rushes": rushes.__version__,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "torch_threads": torch.get_num_threads(),
        **_gpu(device),
    }


def commit(folder: Path = Path(__file__).parent) -> str:
    """Of the checkout that the code runs from, with "-dirty" where files differ from it; "unknown" where it
    was installed without one."""
    described = _output(
        "git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"
    )
    return described or "unknown"


def cpu_name() -> str:
    """The processor's own name, or its architecture where it tells none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu(device: torch.device) -> dict[str, Json]:
    if device.type != "cuda":
        return {"device": str(device)}
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "device": torch.cuda.get_device_name(device),
        "driver": driver.splitlines()[0] if driver else "unknown",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """What a command prints; nothing when it fails or does not exist."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
