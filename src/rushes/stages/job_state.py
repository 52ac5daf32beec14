"""A job's state as tensors and JSON, to be kept while it runs and taken up again by another process.

Kept is what took long to make: the trajectory with its solver history and step cache, and the finished latent
frames. Made again, bit for bit, are the text's states, the initial noise, a causal clip's keys and values
(from its finished latent frames) and every decoded frame: decoding starts over, since a decoder's state is
far larger than the latents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rushes.errors import ResumeError
from rushes.sampling.history import History
from rushes.sampling.step_cache import StepCache
from rushes.stages.base import CausalState, DenoiseState, Job
from rushes.stages.denoise import start
from rushes.stages.denoise_causal import start_causal
from rushes.stages.sealed import metadata_of, request_digest, seal, tensors_of
from rushes.types import ForwardCounts, GenerateRequest, Timing, fields_of

VERSION = "1"
"""Of the format. A state of another one is refused: the job begins anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedJob:
    """Where a job stands.

    Attributes:
        tensors: by name, on the CPU. They may be the job's own, which are never written to.
        facts: everything else, as JSON data.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def pack(job: Job) -> PackedJob:
    """The state of a job between two units, on the host; waits for the device to copy it there."""
    state = job.denoise.chunk if isinstance(job.denoise, CausalState) else job.denoise
    tensors = _state_tensors(state) if state is not None else {}
    if job.latents:
        tensors["latents"] = torch.cat(job.latents, dim=2)
    timing = job.timings.get("denoise")
    facts = {
        "denoise": None if state is None else _state_facts(state),
        "forwards": fields_of(job.forwards),
        "num_delivered": max(job.num_frames, job.num_delivered),
        # Of the other stages, which start over, nothing is kept.
        "timing": None if timing is None else fields_of(timing),
    }
    # .cpu(): the device may be lost at any time, that is what the copy is for.
    return PackedJob(tensors={name: tensor.cpu() for name, tensor in tensors.items()}, facts=facts)


def unpack(job: Job, packed: PackedJob, device: torch.device) -> None:
    """Put a job that has not begun where `packed` stands.

    Args:
        job: of the same request, with the same given tensors if it was given any.
        device: where the job will run.
    """
    assert job.denoise is None, "the job has begun"
    assert not job.latents, "the job has begun"
    facts = packed.facts
    # Whole numbers are read by the host.
    tensors = {
        name: tensor.to(device) if tensor.is_floating_point() else tensor
        for name, tensor in packed.tensors.items()
    }
    if "latents" in tensors:
        frames = tensors["latents"].chunk(tensors["latents"].shape[2], dim=2)
        # Laid out as the stages leave them, so that a decoder takes its sums in the same order.
        job.latents.extend([frame.contiguous() for frame in frames] if job.is_causal else frames)
    if facts["denoise"] is not None and job.is_causal:
        job.denoise = start_causal(job, device)
        job.denoise.chunk = _restored(job.denoise.start, tensors, facts["denoise"])
    elif facts["denoise"] is not None:
        job.denoise = _restored(start(job, device), tensors, facts["denoise"])
    job.forwards = ForwardCounts(**facts["forwards"])
    job.num_delivered = facts["num_delivered"]
    if facts["timing"] is not None:
        job.timings["denoise"] = Timing(**facts["timing"])


def _state_tensors(state: DenoiseState) -> dict[str, Tensor]:
    history = {} if state.history is None else state.history.to_tensors()
    cache = {} if state.step_cache is None else state.step_cache.to_tensors()
    return {
        "denoise.latents": state.latents,
        **{f"denoise.history.{name}": tensor for name, tensor in history.items()},
        **{f"denoise.step_cache.{name}": tensor for name, tensor in cache.items()},
    }


def _state_facts(state: DenoiseState) -> dict[str, Any]:
    return {
        "step": state.step,
        "has_history": state.history is not None,
        "cache_error": None if state.step_cache is None else state.step_cache.error,
    }


def _restored(begin: DenoiseState, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> DenoiseState:
    """The trajectory that began as `begin` did."""
    history, cache = (_under(f"denoise.{name}.", tensors) for name in ("history", "step_cache"))
    error = facts["cache_error"]
    return replace(
        begin,
        latents=tensors["denoise.latents"],
        step=facts["step"],
        history=History.from_tensors(history) if facts["has_history"] else None,
        step_cache=None if error is None else StepCache.from_tensors(cache, error),
    )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def to_bytes(packed: PackedJob, request: GenerateRequest, identity: str) -> bytes:
    """A safetensors file that tells whose state it is and whether it is whole.

    Args:
        identity: of the model: `rushes.pipelines.base.Parts.identity`.
    """
    metadata = {
        "version": VERSION,
        "request": request_digest(request),
        "model": identity,
        "facts": json.dumps(packed.facts),
    }
    return seal(packed.tensors, metadata)


def from_bytes(data: bytes, request: GenerateRequest, identity: str) -> PackedJob:
    """The inverse of `to_bytes`.

    Raises:
        ResumeError: the bytes are damaged, or of another request, model or version of the format.
    """
    metadata = metadata_of(data)
    wanted = {"version": VERSION, "request": request_digest(request), "model": identity}
    for name, value in wanted.items():
        if metadata[name] != value:
            raise ResumeError(f"of another {name}: {metadata[name]}, needed is {value}")
    return PackedJob(tensors=tensors_of(data), facts=json.loads(metadata["facts"]))
