"""Rushes beside diffusers on one tiny random checkpoint: the figures of `make parity` and of its tests.

Everything runs in float32 on the CPU. Relative error is ||a - b||2 / ||b||2, with diffusers as b.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor

import rushes
from rushes.models.checkpoint import open_checkpoint
from rushes.models.wan_vae import WanVAE
from rushes.sampling.noise import initial_noise

CPU = torch.device("cpu")
CHANNELS = {"a14b": 16, "ti2v-5b": 48}
TEXT_DIM = 32
NETWORKS = {"a14b": {"high": "transformer", "low": "transformer_2"}, "ti2v-5b": {"high": "transformer"}}
LATENT_SIZES = [(1, 2, 2), (3, 4, 6), (2, 10, 6), (5, 6, 14)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One comparison: relative error, and the largest absolute one over max|b|, against a bar (0: equal)."""

    what: str
    case: str
    relative: float
    maximum: float
    bar: float

    @property
    def is_met(self) -> bool:
        """Whether the relative error is within the bar. NaN is not."""
        return self.relative <= self.bar


def compare(what: str, case: str, ours: Tensor, theirs: Tensor, bar: float) -> Figure:
    """The figure of two tensors, which must have one shape."""
    assert ours.shape == theirs.shape, f"{what}, {case}: {tuple(ours.shape)} against {tuple(theirs.shape)}"
    a, b = ours.double(), theirs.double()
    return Figure(
        what=what,
        case=case,
        relative=float((a - b).norm() / b.norm()),
        maximum=float((a - b).abs().max() / b.abs().max()),
        bar=bar,
    )


def noise(*shape: int, seed: int) -> Tensor:
    return initial_noise(shape, seed)


@torch.no_grad()
def transformer_figures(kind: str, folder: Path) -> Iterator[Figure]:
    """Both networks at several sizes, text lengths and timesteps; the 5B with a timestep per token too."""
    for expert, name in NETWORKS[kind].items():
        ours = open_checkpoint(folder).load_transformer(expert, CPU, torch.float32)
        theirs = WanTransformer3DModel.from_pretrained(folder / name, dtype=torch.float32).eval()
        for seed, (size, num_tokens) in enumerate(zip(LATENT_SIZES, (512, 7, 64, 33), strict=True)):
            latents = noise(2, CHANNELS[kind], *size, seed=seed)
            text = noise(2, num_tokens, TEXT_DIM, seed=seed + 100)
            timestep = torch.tensor([999.0, 41.0])
            if kind == "ti2v-5b":
                timestep = timestep[:, None].repeat(1, size[0] * (size[1] // 2) * (size[2] // 2))
                timestep[:, : timestep.shape[1] // 2] = 0.0
            expected = theirs(latents, timestep, text, return_dict=False)[0]
            found = ours(latents, timestep, ours.encode_text(text))
            yield compare("transformer", f"{kind} {expert} {_times(size)}", found, expected, 1e-5)


@torch.no_grad()
def vae_figures(kind: str, folder: Path) -> Iterator[Figure]:
    """Encode and decode against diffusers; the stream and the cache-free reference against our decode."""
    ours = open_checkpoint(folder).load_vae(CPU, torch.float32)
    theirs = AutoencoderKLWan.from_pretrained(folder / "vae", dtype=torch.float32).eval()
    mean, std = (
        torch.tensor(values)[:, None, None, None]
        for values in (theirs.config.latents_mean, theirs.config.latents_std)
    )
    stride = ours.config.spatial_stride
    for seed, (num_latents, height, width) in enumerate(((1, 2, 2), (3, 3, 5), (4, 2, 3))):
        case = f"{kind} {1 + 4 * (num_latents - 1)} frames {width * stride}x{height * stride}"
        video = noise(1, 3, 1 + 4 * (num_latents - 1), height * stride, width * stride, seed=seed).clamp(
            -1, 1
        )
        encoded = theirs.encode(video).latent_dist.mode()
        yield compare("VAE encode", case, ours.encode(video), (encoded - mean) / std, 1e-5)
        latents = noise(1, CHANNELS[kind], num_latents, height, width, seed=seed + 10)
        decoded = theirs.decode(latents * std + mean).sample
        whole = ours.decode(latents)
        yield compare("VAE decode", case, whole, decoded, 1e-5)
        streamed = _interleaved(ours, latents, noise(*latents.shape, seed=seed + 20))
        yield compare("VAE stream, two clips at once", case, streamed, whole, 0.0)
        yield compare("VAE without cache", case, ours.decode_whole(latents).clamp(-1, 1), whole, 1e-5)


def _interleaved(vae: WanVAE, latents: Tensor, other: Tensor) -> Tensor:
    """Decode `latents` latent by latent, with a step of another clip between every two."""
    frames, state, other_state = [], None, None
    for latent, between in zip(latents.split(1, dim=2), other.split(1, dim=2), strict=True):
        pixels, state = vae.decode_step(latent, state)
        frames.append(pixels)
        _, other_state = vae.decode_step(between, other_state)
    return torch.cat(frames, dim=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What both pipelines are asked for."""

    width: int
    height: int
    num_frames: int
    steps: int
    shift: float
    guidance_high: float
    guidance_low: float | None = None
    text_len: int = 512
    seed: int = 0

    def __str__(self) -> str:
        scales = [scale for scale in (self.guidance_high, self.guidance_low) if scale is not None]
        size = f"{self.width}x{self.height}x{self.num_frames}"
        return f"{size}, {self.steps} steps, guidance {'/'.join(f'{scale:g}' for scale in scales)}"


CLIPS = {
    "a14b": (
        Clip(width=48, height=32, num_frames=9, steps=8, shift=12.0, guidance_high=4.0, guidance_low=3.0),
        Clip(width=80, height=16, num_frames=1, steps=5, shift=5.0, guidance_high=1.0, guidance_low=1.0),
        Clip(
            width=16,
            height=48,
            num_frames=5,
            steps=10,
            shift=3.0,
            guidance_high=3.0,
            guidance_low=6.0,
            text_len=9,
        ),
    ),
    "ti2v-5b": (
        Clip(width=96, height=32, num_frames=9, steps=8, shift=5.0, guidance_high=5.0),
        Clip(width=32, height=64, num_frames=5, steps=3, shift=5.0, guidance_high=1.0),
    ),
}


@torch.no_grad()
def pipeline_figures(kind: str, folder: Path) -> Iterator[Figure]:
    """Final latents from the same noise and embeddings, and from the same prompt."""
    model = rushes.load(folder, device="cpu", dtype="float32")
    oracle = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    oracle.set_progress_bar_config(disable=True)
    for clip in CLIPS[kind]:
        embeds = [noise(1, clip.text_len, TEXT_DIM, seed=clip.seed + i) for i in (1, 2)]
        given = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
        found = model.generate(**given, **our_fields(clip), output="latents").latents
        yield compare("pipeline", f"{kind} {clip}", found, oracle_clip(oracle, clip, given), 1e-4)
    texts = {"prompt": "a dog &amp; a cat", "negative_prompt": "blurry, worst quality"}
    found = model.generate(**texts, **our_fields(clip), output="latents").latents
    yield compare("pipeline from text", f"{kind} {clip}", found, oracle_clip(oracle, clip, texts), 1e-4)


def our_fields(clip: Clip) -> dict[str, object]:
    """The clip as fields of `generate`."""
    fields = {
        "width": clip.width,
        "height": clip.height,
        "num_frames": clip.num_frames,
        "num_inference_steps": clip.steps,
        "flow_shift": clip.shift,
        "solver": "unipc",
        "guidance_high": clip.guidance_high,
        "seed": clip.seed,
    }
    return fields if clip.guidance_low is None else {**fields, "guidance_low": clip.guidance_low}


def oracle_clip(oracle: WanPipeline, clip: Clip, text: dict[str, object], output_type: str = "latent") -> Any:
    """What diffusers makes of the clip: latents [1, C, T, H, W], or frames in [0, 1] as "np"."""
    oracle.scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=clip.shift
    )
    return oracle(
        **text,
        width=clip.width,
        height=clip.height,
        num_frames=clip.num_frames,
        num_inference_steps=clip.steps,
        guidance_scale=clip.guidance_high,
        guidance_scale_2=clip.guidance_low,
        generator=torch.Generator().manual_seed(clip.seed),
        output_type=output_type,
    ).frames


@torch.no_grad()
def batch_figures(kind: str, folder: Path) -> Iterator[Figure]:
    """Two jobs of other steps, shifts and scales in one batch against each alone."""
    model = rushes.load(folder, device="cpu", dtype="float32")
    clip = CLIPS[kind][0]
    asked = [
        our_fields(clip),
        {**our_fields(clip), "num_inference_steps": 6, "seed": 5, "guidance_high": 1.0},
    ]
    prompts = ["a dog", "two cats on a roof"]
    alone = [
        model.generate(prompt, **fields, output="latents").latents
        for prompt, fields in zip(prompts, asked, strict=True)
    ]
    jobs = [model.job(prompt, **fields) for prompt, fields in zip(prompts, asked, strict=True)]
    while waiting := [job for job in jobs if not job.is_denoised]:
        stages = [model.pipeline.current(job) for job in waiting]
        keys = [stage.key(job) for stage, job in zip(stages, waiting, strict=True)]
        batch = [job for job, key in zip(waiting, keys, strict=True) if key == keys[0]]
        stages[0].run(batch)
    for i, (job, expected) in enumerate(zip(jobs, alone, strict=True)):
        found = torch.cat(list(job.latents), dim=2)
        yield compare("batch of 2 against alone", f"{kind} job {i}", found, expected, 1e-4)


def _times(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
