"""What changed the clips, beside what changes them although nothing that matters has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from rushes.errors import OutOfMemory
from rushes.profiling.bench.base import Contender
from rushes.profiling.quality.clips import Comparison, compare_clips, mean_comparison
from rushes.profiling.quality.latents import relative_l1, relative_l1_curve
from rushes.types import Frames, GenerateRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)

Requests = Sequence[GenerateRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One clip and the way to it.

    Attributes:
        frames: uint8 [T, H, W, 3].
        latents: after each step, float32 on the CPU.
    """

    frames: NDArray[np.uint8]
    latents: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Clips of one setting against the reference's, made of the same requests.

    Attributes:
        is_floor: the settings differ in nothing that matters: this is what no change at all costs.
        comparison: means over the clips.
        latent_l1: relative L1 of the final latents, mean over the clips.
        latent_l1_curve: the same after each step; empty where the numbers of steps differ.
    """

    is_floor: bool
    num_clips: int
    comparison: Comparison
    latent_l1: float
    latent_l1_curve: tuple[float, ...]


def make_clip(contender: Contender, request: GenerateRequest) -> Made:
    """The frames and latents of one request."""
    video = request.video
    frames = np.empty((video.num_frames, video.height, video.width, 3), np.uint8)
    latents: list[Tensor] = []

    def keep(tensor: Tensor) -> None:
        latents.append(tensor.detach().float().cpu().clone())

    try:
        for event in contender.events(request, on_latents=keep):
            if isinstance(event, Frames):
                frames[event.start : event.start + len(event.frames)] = event.frames
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"{contender.name}: {error}") from error
    return Made(frames=frames, latents=tuple(latents))


def difference(reference: Sequence[Made], others: Sequence[Made], *, is_floor: bool = False) -> Difference:
    """Of as many clips, of the same requests in the same order."""
    pairs = list(zip(reference, others, strict=True))
    has_curve = all(len(a.latents) == len(b.latents) for a, b in pairs)
    curves = [relative_l1_curve(a.latents, b.latents) for a, b in pairs if has_curve]
    return Difference(
        is_floor=is_floor,
        num_clips=len(pairs),
        comparison=mean_comparison([compare_clips(a.frames, b.frames) for a, b in pairs]),
        latent_l1=float(np.mean([relative_l1(a.latents[-1], b.latents[-1]) for a, b in pairs])),
        latent_l1_curve=tuple(np.mean(curves, 0).tolist()) if curves else (),
    )


@contextmanager
def other_kernel(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Attention by a kernel that torch would not take by itself, wherever it is left to torch.

    On a GPU torch takes flash attention (or cuDNN's) in half precision, and the memory-efficient kernel in
    float32, which those two do not have.
    """
    has_flash = device.type == "cuda" and dtype in HALVES
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION if has_flash else SDPBackend.MATH):
        yield


def computed_in_full(request: GenerateRequest) -> GenerateRequest:
    """The request without what its steps reuse of earlier ones."""
    return replace(request, sampling=replace(request.sampling, step_cache=0.0, guidance_gate=1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """One way to make the clips.

    Attributes:
        make: a clip of a request that is computed in full.
        is_floor: see `Difference`.
    """

    name: str
    make: Callable[[GenerateRequest], Made]
    is_floor: bool = False


def make_all(
    variations: Sequence[Variation], requests: Requests, say: Callable[[str], None] = lambda line: None
) -> dict[str, list[Made]]:
    """The clips of every variation, by its name."""
    made: dict[str, list[Made]] = {}
    for variation in variations:
        say(f"quality: {len(requests)} clips, {variation.name}")
        made[variation.name] = [variation.make(request) for request in requests]
    return made


def differences(variations: Sequence[Variation], made: dict[str, list[Made]]) -> dict[str, Difference]:
    """Every variation but the first, which is the reference, against it."""
    reference, *others = variations
    return {
        other.name: difference(made[reference.name], made[other.name], is_floor=other.is_floor)
        for other in others
    }
