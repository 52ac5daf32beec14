"""What a warm step must not do: take memory from the device, or wait for it. Both cost time, unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

COUNTED = ("num_device_alloc", "num_alloc_retries")
"""Calls of the driver for memory, and times that the allocator had to empty its cache first."""

Statistics = Callable[[], Mapping[str, Any]]


@contextmanager
def no_new_memory(device: torch.device, statistics: Statistics | None = None) -> Iterator[None]:
    """Raises `AssertionError` when what runs inside made the allocator ask the driver for memory.

    Args:
        statistics: of the allocator; None for those of torch on `device`, which must be a GPU.

    Example:
        >>> counts = iter([{"num_device_alloc": 3}, {"num_device_alloc": 4}])
        >>> with no_new_memory(torch.device("cuda"), lambda: next(counts)):
        ...     pass
        Traceback (most recent call last):
        AssertionError: a warm step took memory from the device: num_device_alloc +1, num_alloc_retries +0
    """
    assert device.type == "cuda", f"{device} has no allocator that counts"
    read = statistics or (lambda: torch.cuda.memory_stats(device))
    before = read()
    yield
    after = read()
    grown = {name: after.get(name, 0) - before.get(name, 0) for name in COUNTED}
    if any(grown.values()):
        told = ", ".join(f"{name} +{number}" for name, number in grown.items())
        raise AssertionError(f"a warm step took memory from the device: {told}")


@contextmanager
def no_waiting() -> Iterator[None]:
    """Calls of torch that wait for a GPU raise `RuntimeError` inside, all but `torch.cuda.synchronize`."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
