"""Latents of an unfinished clip, kept at a noise level, and how another clip goes on from them.

Shapes: latents [1, C, T, H, W]. At level sigma a clip stands at x = (1 - sigma) * clean + sigma * noise, with
the velocity v = noise - clean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rushes.errors import ResumeError
from rushes.stages.base import DenoiseState
from rushes.stages.sealed import metadata_of, request_digest, seal, tensors_of
from rushes.stores.request_json import to_json
from rushes.types import GenerateRequest, LatentSource

VERSION = "1"
"""Of the format of snapshots."""

SAME_LEVEL = 1e-5
"""Noise levels that differ by less are one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A clip before one of its solver steps.

    Attributes:
        step: the step, counted from 0.
        sigma: its noise level.
        latents: x, float32.
        clean: the clean latents that this step predicted from x.
    """

    step: int
    sigma: float
    latents: Tensor
    clean: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLatents:
    """What a clip goes on from.

    Attributes:
        clean: clean latents as the step at this level predicted them; under a mask the finished clip's.
        mask: where it may change, 0 .. 1, [1, 1, 1 or T, H, W]; None for everywhere.
        lead: pixels [n, H, W, 3] of the latent frames before the first one that may change; None where they
            are to be decoded.
    """

    sigma: float
    latents: Tensor
    clean: Tensor
    mask: Tensor | None = None
    lead: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Where a clip may change. Outside of the mask every step is told that the clip ends as the source's
    clean latents: the usual blend of noised latents, but for solvers of any order and stochastic ones too.

    Attributes:
        clean: of the source.
        mask: as in `SourceLatents`.
    """

    clean: Tensor
    mask: Tensor

    def velocity(self, velocity: Tensor, latents: Tensor, sigma: float) -> Tensor:
        """The network's within the mask; outside the one that leads from `latents` to the source's."""
        return torch.lerp((latents - self.clean) / sigma, velocity.float(), self.mask)


def on_host(snapshot: Snapshot) -> Snapshot:
    """To be kept: x as it is, so that a clip that goes on from it comes out the same bit for bit; the
    prediction in half the bytes. Waits for the device."""
    return replace(snapshot, latents=snapshot.latents.cpu(), clean=snapshot.clean.half().cpu())


def final_on_host(latents: Sequence[Tensor]) -> Tensor:
    """Finished latent frames [1, C, 1, H, W] as one clip, in half the bytes. Waits for the device."""
    return torch.cat(list(latents), dim=2).half().cpu()


def to_bytes(snapshot: Snapshot, request: GenerateRequest, *, identity: str, tenant: str) -> bytes:
    """A file that tells which clip of whose this was, at which level.

    Args:
        identity: of the model: `rushes.pipelines.base.Parts.identity`.
    """
    metadata = {
        "version": VERSION,
        "request": request_digest(request),
        "request_json": to_json(request),
        "model": identity,
        "tenant": tenant,
        "step": str(snapshot.step),
        "sigma": repr(snapshot.sigma),
    }
    tensors = {"latents": snapshot.latents, "clean": snapshot.clean}
    if snapshot.sigma == 0:  # a finished clip, whose latents are clean
        del tensors["latents"]
    return seal(tensors, metadata)


def from_bytes(
    data: bytes, *, identity: str, tenant: str, latent_shape: tuple[int, int, int, int]
) -> SourceLatents:
    """The latents of a file that `to_bytes` made.

    Raises:
        ResumeError: it is damaged, of another model, tenant, size or version, or holds what is no number.
    """
    metadata = metadata_of(data)
    wanted = {"version": VERSION, "model": identity, "tenant": tenant}
    for name, value in wanted.items():
        if metadata.get(name) != value:
            raise ResumeError(f"of another {name}: {metadata.get(name)}, needed is {value}")
    tensors, sigma = tensors_of(data), float(metadata["sigma"])
    if sigma == 0 and "clean" in tensors:
        tensors["latents"] = tensors["clean"]
    for name in ("latents", "clean"):
        _check(name, tensors.get(name), (1, *latent_shape))
    return SourceLatents(sigma=sigma, latents=tensors["latents"].float(), clean=tensors["clean"].float())


def mask_tensor(mask: Any, latent_shape: tuple[int, int, int, int]) -> Tensor:
    """A mask [h, w] or [T, h, w] for latents of this shape. Raises `ResumeError` when it does not fit."""
    tensor = torch.as_tensor(mask, dtype=torch.float32)
    _, frames, rows, columns = latent_shape
    if tuple(tensor.shape) not in ((rows, columns), (frames, rows, columns)):
        raise ResumeError(
            f"mask of shape {tuple(tensor.shape)}; this clip needs ({rows}, {columns}) or "
            f"({frames}, {rows}, {columns})"
        )
    if not bool(((tensor >= 0) & (tensor <= 1)).all()):  # NaN is neither
        raise ResumeError("mask with values outside of 0 .. 1")
    return tensor.reshape(1, 1, -1, rows, columns)


def check_source(source: LatentSource, given: SourceLatents, sigmas: tuple[float, ...]) -> None:
    """Raises `ResumeError` when a clip of these noise levels cannot go on from there."""
    if not 0 <= source.step < len(sigmas) - 1:
        raise ResumeError(f"step {source.step}; this clip has steps 0 to {len(sigmas) - 2}")
    if not source.is_renoised and abs(given.sigma - sigmas[source.step]) > SAME_LEVEL:
        raise ResumeError(
            f"latents at noise level {given.sigma:.6g}; step {source.step} begins at "
            f"{sigmas[source.step]:.6g}"
        )


def taken_up(begin: DenoiseState, source: LatentSource, given: SourceLatents) -> DenoiseState:
    """The state of a clip at the source's step, without a past: its first step is of first order.

    Args:
        begin: at step 0, its latents the clip's own noise.
    """
    device, sigma = begin.latents.device, begin.sigmas[source.step]
    clean = given.clean.to(device, torch.float32)
    if source.is_renoised:
        latents = torch.lerp(clean, begin.latents, sigma)
    else:
        latents = given.latents.to(device, torch.float32).contiguous()
    region = None if given.mask is None else Region(clean=clean, mask=given.mask.to(device))
    return replace(begin, latents=latents, step=source.step, region=region)


def _check(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is None or tuple(tensor.shape) != shape or not tensor.is_floating_point():
        found = "none" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        raise ResumeError(f"{name}: {found}; this clip needs floats of shape {shape}")
    if not bool(torch.isfinite(tensor).all()):
        raise ResumeError(f"{name}: holds NaN or infinity")
