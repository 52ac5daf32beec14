"""The parts of a model that stay float32 whatever surrounds them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def float32_island(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off; meta tensors have none."""
    # torch.amp.is_autocast_available would tell for any device, but breaks a graph of torch 2.11.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
