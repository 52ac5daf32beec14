"""How much of a CUDA device this process can still take."""

from __future__ import annotations

import torch


def free_device_bytes(device: torch.device) -> int:
    """Memory free on a CUDA device, within the share of it that the process allows itself
    (`torch.cuda.set_per_process_memory_fraction`). What the allocator keeps unused is not counted."""
    free, total = torch.cuda.mem_get_info(device)
    # By index: a device "cuda" without one is refused here.
    allowed = int(torch.cuda.get_per_process_memory_fraction(device.index) * total)
    return max(0, min(free, allowed - torch.cuda.memory_reserved(device)))
