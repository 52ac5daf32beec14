"""Seeded noise: equal on every device, and a pure function of seed and step, so that a stored job resumes."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor


def initial_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal float32 latents on the CPU: as diffusers draws them from a CPU generator."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def step_generator(seed: int, index: int) -> torch.Generator:
    """A CPU generator for the noise added by step `index` of the job with `seed`, counted over all its frames
    where they are denoised one after another.

    It depends on nothing else, neither the device nor the steps before; another seed or index gives an
    independent stream, and none repeats the initial noise.
    """
    digest = blake2b(f"rushes step noise {seed} {index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def noise_like(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `latents`, drawn on the generator's device."""
    noise = torch.randn(
        latents.shape,
        generator=generator,
        dtype=latents.dtype,
        device=generator.device,
        # A copy out of pageable memory would wait for the GPU, whatever non_blocking says.
        pin_memory=latents.is_cuda and generator.device.type == "cpu",
    )
    return noise.to(latents.device, non_blocking=True)
