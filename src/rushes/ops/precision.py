"""The parts of a model that stay float32 whatever surrounds them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def float32_island(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off; meta tensors have none."""
    # torch.amp.is_autocast_available would say so for any device, but breaks the graph under torch 2.11's Dynamo.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
