"""Clips for the judge: generated in batches by the library's stages, rendered, or restored by the VAE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from training.world.prompts import Prompts
from training.world.renderer import Renderer
from training.world.scenes import NUM_VARIANTS, Scenes

from rushes.models.checkpoint import open_checkpoint
from rushes.models.expert_pair import OneExpert
from rushes.models.judge import Judge, load_judge
from rushes.models.wan import KVCache, TextContext, Wan
from rushes.models.wan_vae import WanVAE, to_uint8
from rushes.pipelines.device import choose_device, choose_dtype
from rushes.pipelines.model import Model
from rushes.pipelines.parts import CheckpointParts
from rushes.pipelines.rules import load_rules
from rushes.profiling.quality.pixels import PEAK, psnr_db
from rushes.sampling.guidance import cfg
from rushes.sampling.noise import initial_noise
from rushes.sampling.solvers import load_solver, schedule_for
from rushes.stages.base import Job
from rushes.stages.denoise import Denoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The toy model, its networks and its judge on one device; `batch` clips are made at a time."""

    model: Model
    wan: Wan
    vae: WanVAE
    judge: Judge
    device: torch.device
    dtype: torch.dtype
    batch: int


def open_bench(
    assets: Path, batch: int | None, *, device: str | None = None, dtype: str | None = None
) -> Bench:
    """Load everything from a folder that `training.ship` wrote.

    Args:
        device, dtype: as `rushes.load` takes them.
    """
    place = choose_device(device)
    return _open(assets, batch, place, choose_dtype(dtype, place))


def _open(assets: Path, batch: int | None, device: torch.device, dtype: torch.dtype) -> Bench:
    parts = CheckpointParts(open_checkpoint(assets / "toy"), device, dtype)
    return Bench(
        model=Model(load_rules("toy"), parts, boundary=None, device=device),
        wan=parts.experts().select(0.0),
        vae=parts.vae(),
        judge=load_judge(assets / "judge").to(device),
        device=device,
        dtype=dtype,
        batch=batch or (64 if device.type == "cuda" else 2),
    )


def generate(
    bench: Bench, prompts: Prompts, fields: Mapping[str, Any], *, causal: bool = False
) -> Iterator[Tensor]:
    """Clips of all prompts, each with its own seed, batch by batch: uint8 [B, T, H, W, 3] on the device."""
    for start in range(0, len(prompts.texts), bench.batch):
        rows = range(start, min(start + bench.batch, len(prompts.texts)))
        jobs = [bench.model.job(prompts.texts[i], seed=prompts.seeds[i], **fields) for i in rows]
        yield finish(bench, jobs, causal=causal)


@torch.no_grad()
def finish(bench: Bench, jobs: Sequence[Job], *, causal: bool) -> Tensor:
    """Take jobs of one schedule through the pipeline's stages together.

    The VAE decodes them in one batch, where its stage would call it for each clip.
    """
    text, denoise, _ = bench.model.pipeline.stages(jobs[0])
    text.run(jobs)
    if causal:
        denoise_causal(bench.wan, jobs)
    while not denoise.done(jobs[0]):
        denoise.run(jobs)
    latents = torch.cat([torch.cat(list(job.latents), dim=2) for job in jobs])
    return to_uint8(bench.vae.decode(latents))


@torch.no_grad()
def denoise_causal(wan: Wan, jobs: Sequence[Job]) -> None:
    """What the causal mode does, for jobs of one schedule in one batch: their caches grow alike."""
    sampling = jobs[0].request.sampling
    schedule, solver = schedule_for(sampling), load_solver(sampling.solver)
    assert not solver.is_stochastic, "each job would need a generator of its own"
    scale = jobs[0].guidance["high"]
    texts = [
        text_context(wan, jobs, is_negative) for is_negative in ((False, True) if scale != 1 else (False,))
    ]
    caches = [KVCache() for _ in texts]
    device = next(wan.parameters()).device
    noise = torch.cat([initial_noise((1, *job.latent_shape), job.request.sampling.seed) for job in jobs])

    def velocities(x: Tensor, timestep: float, write_cache: bool = False) -> list[Tensor]:
        times = torch.full((len(jobs),), timestep, device=device)
        pairs = zip(texts, caches, strict=True)
        return [wan(x, times, text, causal=True, cache=kv, write_cache=write_cache) for text, kv in pairs]

    for x in noise.to(device).split(1, dim=2):
        history = None
        for step, timestep in enumerate(schedule.timesteps):
            found = velocities(x, timestep)
            velocity = found[0] if len(found) == 1 else cfg(found[0], found[1], scale)
            x, history = solver.step(velocity, x, schedule.sigmas, step, history)
        velocities(x, 0.0, write_cache=True)
        for job, latent in zip(jobs, x.split(1), strict=True):
            job.latents.append(latent)


def text_context(wan: Wan, jobs: Sequence[Job], is_negative: bool) -> TextContext:
    """Keys and values of the jobs' prompts, or of their negative prompts, in one batch."""
    texts = [job.text.negative if is_negative else job.text.prompt for job in jobs]
    return TextContext.cat([text.context("high", wan) for text in texts])


class CountingWan:
    """A `Wan` that counts, in `loads`, how many tokens each layer's experts are given."""

    def __init__(self, wan: Wan) -> None:
        self.encode_text = wan.encode_text
        self.loads: list[Tensor] = []
        self._wan = wan

    def __call__(self, latents: Tensor, timestep: Tensor, context: TextContext) -> Tensor:
        return self._wan(latents, timestep, context, router_loads=self.loads)


def expert_loads(bench: Bench, prompts: Prompts) -> list[float]:
    """Load of the busiest expert over the mean, by layer, in the first batch of the quality preset."""
    counting = CountingWan(bench.wan)
    stage = Denoise("toy", lambda _lora: OneExpert(counting), None, bench.device)
    texts, seeds = prompts.texts[: bench.batch], prompts.seeds[: bench.batch]
    jobs = [bench.model.job(text, seed=seed) for text, seed in zip(texts, seeds, strict=True)]
    bench.model.pipeline.stages(jobs[0])[0].run(jobs)
    while not stage.done(jobs[0]):
        stage.run(jobs)
    by_layer = torch.stack(counting.loads).unflatten(0, (-1, bench.wan.config.num_layers)).sum(0)
    return [round(value, 3) for value in (by_layer.amax(1) / by_layer.mean(1)).tolist()]


@torch.no_grad()
def read(bench: Bench, video: Tensor) -> dict[str, Tensor]:
    """Class indices that the judge reads from clips [B, 3, T, H, W] in [-1, 1], by attribute, on the CPU."""
    return {name: logits.argmax(1).cpu() for name, logits in bench.judge(video.float()).items()}


def to_video(clips: Tensor, device: torch.device) -> Tensor:
    """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W] in [-1, 1]."""
    return clips.to(device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Batches of class indices as one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def render(bench: Bench, scenes: Scenes) -> Iterator[Tensor]:
    """Scenes as clips [B, 3, T, H, W], batch by batch."""
    is_cuda = bench.device.type == "cuda"
    renderer = Renderer(bench.device, num_variants=NUM_VARIANTS if is_cuda else 2)  # painting them takes long
    for start in range(0, len(scenes), bench.batch):
        yield renderer.render(scenes[start : start + bench.batch], allow_held_out=True)


@torch.no_grad()
def restore_clips(bench: Bench, video: Tensor) -> Tensor:
    """Through the VAE and back, a few clips at a time."""
    few = video.to(bench.dtype).split(16)
    return torch.cat([bench.vae.decode(bench.vae.encode(clips)).float() for clips in few])


def psnr(video: Tensor, restored: Tensor) -> Tensor:
    """Decibels of each clip [B], of pixels in [-1, 1] before they are rounded to 8 bits."""
    squared = ((video.float() - restored.float()) * PEAK / 2).square().flatten(1).mean(1)
    return torch.tensor([psnr_db(mse) for mse in squared.tolist()])
