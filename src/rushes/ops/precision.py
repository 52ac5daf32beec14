"""The parts of a model that stay float32 whatever surrounds them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def float32_island(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off, on devices that have it (meta tensors, for one, do not)."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
