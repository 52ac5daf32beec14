"""Where a model runs, in what precision, and whether it fits there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from rushes.config import DTYPES
from rushes.errors import ConfigError
from rushes.models.checkpoint import Checkpoint
from rushes.models.checkpoint_report import MemoryNeed, PartSize, Residency, describe, memory_need
from rushes.models.device_memory import free_device_bytes

_UMT5_XXL = PartSize(name="text_encoder", num_bytes=0, num_parameters=5_680_000_000)


def _published(transformer: int, vae: int, num_experts: int = 1) -> tuple[PartSize, ...]:
    experts = ("transformer", "transformer_low")[:num_experts]
    sizes = {**dict.fromkeys(experts, transformer), "vae": vae}
    parts = [PartSize(name=name, num_bytes=0, num_parameters=size) for name, size in sizes.items()]
    return (*parts, _UMT5_XXL)


PUBLISHED: Mapping[str, tuple[PartSize, ...]] = {
    "wan2.2-t2v-a14b": _published(14_288_000_000, 127_000_000, num_experts=2),
    "wan2.1-t2v-14b": _published(14_288_000_000, 127_000_000),
    "wan2.2-ti2v-5b": _published(5_000_000_000, 705_000_000),
    "wan2.1-t2v-1.3b": _published(1_420_000_000, 127_000_000),
}
"""Parameters of the published checkpoints, largest model first."""


def choose_device(name: str | torch.device | None) -> torch.device:
    """The device of this name; for None, cuda where there is one, else the CPU. Raises `ConfigError`."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is not a torch device such as 'cpu' or 'cuda:0'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name!r} was asked for, and torch sees no CUDA device; use 'cpu'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name!r} was asked for, and torch sees {torch.cuda.device_count()}")
    return device


def choose_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of this name; for None, bfloat16 on cuda and float32 elsewhere. Raises `ConfigError`."""
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    short = str(name).removeprefix("torch.")
    if short not in DTYPES:
        raise ConfigError(f"dtype: {short!r} is not one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, short)
    return dtype


def check_memory(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    free_bytes: int | None = None,
    host_bytes: int | None = None,
) -> Residency:
    """What of the checkpoint will be on the device. Raises `ConfigError`, in one line, when it does not fit:
    what it needs and what would fit.

    Args:
        free_bytes: memory to fit into; None asks the device.
        host_bytes: host memory for parts that wait beside a CUDA device; None asks the system. Other devices
            use the host's memory themselves, so moving parts there saves them nothing.
    """
    free = _free_bytes(device) if free_bytes is None else free_bytes
    host = 0
    if device.type == "cuda":
        host = host_memory() if host_bytes is None else host_bytes
    name = str(dtype).removeprefix("torch.")
    need = memory_need(describe(checkpoint).parts, name)
    residency = need.fits(free, host)
    if residency is None:
        needed = f"{checkpoint.pipeline} in {name} needs {_needed(need, device)}, {_gb(free)} are free"
        pinnable = f" and {_gb(host)} of the host's" if device.type == "cuda" else ""
        raise ConfigError(f"{needed}{pinnable}; {_what_fits(free, host, name)}")
    return residency


def residency_notes(checkpoint: Checkpoint, dtype: torch.dtype, residency: Residency) -> tuple[str, ...]:
    """What the user should know of parts that are not on the device."""
    if "streamed" not in residency:
        return ()
    need = memory_need(describe(checkpoint).parts, str(dtype).removeprefix("torch."))
    return (streamed_note(need.text),)


def streamed_note(text_bytes: int) -> str:
    """That the text encoder is not on the device."""
    return (
        f"The text encoder ({_gb(text_bytes)}) stays in host memory, as the device is short of it: a new"
        " prompt takes a fraction of a second longer."
    )


def host_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that this process may use: the machine's, or less where a container limits it.

    All of it, as file caches count as used and are given back.

    Args:
        cgroup: where Linux mounts control groups; version 2 and version 1 are read.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        limit = file.read_text().strip() if file.is_file() else "max"
        if limit.isdecimal():
            limits.append(int(limit))
    return min(limits)


def _free_bytes(device: torch.device) -> int:
    return free_device_bytes(device) if device.type == "cuda" else host_memory()


def _needed(need: MemoryNeed, device: torch.device) -> str:
    least, beside = need.needed("swapped and streamed")
    if device.type != "cuda" or not beside:
        return f"{_gb(need.resident)} on {device}"
    return (
        f"{_gb(least)} on {device} and {_gb(beside)} on the host (or {_gb(need.resident)} on {device} alone)"
    )


def _what_fits(free_bytes: int, host_bytes: int, dtype: str) -> str:
    fitting = []
    for name, parts in PUBLISHED.items():
        need = memory_need(parts, dtype)
        residency = need.fits(free_bytes, host_bytes)
        if residency is not None:
            fitting.append(f"{name} ({_gb(need.needed(residency)[0])})")
    return f"what would fit: {', '.join(fitting) or 'the toy'}"


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
