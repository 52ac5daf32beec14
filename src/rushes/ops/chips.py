"""What kind of chip a device is."""

import torch


def is_hopper(device: torch.device) -> bool:
    """Whether kernels made for H100 and H200 run on it."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
