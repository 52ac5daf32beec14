"""VAE decoding at true shapes on one GPU, random weights: diffusers, ours, and ours with each pass.

    python -m benchmarks.vae_gpu --commit $(git rev-parse --short HEAD) --seconds 90

Figures go to `$OUT/vae_gpu.json` (default benchmarks/results) and into the table printed last. `--tiny` runs
every part on the CPU in shapes that prove nothing but the code. A first and a second latent frame are decoded
before anything is timed; "first latent" is one call for the clip's first frame.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import diffusers
import torch
from benchmarks.gpu_report import (
    Report,
    about_machine,
    free_memory,
    part_arguments,
    peak_gb,
    run_parts,
    seconds_of,
    synchronize,
)
from benchmarks.random_vae import (
    TINY,
    TRUE,
    VaeShapes,
    bf16_latents,
    diffusers_decode,
    diffusers_vae,
    random_vae,
)
from benchmarks.small_kernels import error
from benchmarks.vae_convs import conv_table, window_table
from torch import Tensor

from rushes.models.wan_vae import WanVAE, to_uint8
from rushes.ops.frame_window import window_kernels
from rushes.passes.vae import VaeCompile, VaeFused, VaeTiling
from rushes.passes.vae_fused_step import Convs
from rushes.stages.preview import preview_frames

BF16, F32 = torch.bfloat16, torch.float32
SEED = 3
Decode = Callable[[Tensor], Tensor]


def fused(vae: WanVAE, convs: Convs = "auto") -> WanVAE:
    """With the pass; its specification stands in for the kernels on a CPU."""
    is_cuda = vae.post_quant_conv.weight.is_cuda
    VaeFused(kernels="triton" if is_cuda else "torch", convs=convs).apply(vae)
    return vae


@torch.no_grad()
def accuracy(report: Report, model: str, shapes: VaeShapes, device: torch.device) -> None:
    """Errors of the bfloat16 decoders against float32, at a short clip."""
    config = shapes.configs[model]
    latents = bf16_latents(config, 1, shapes.short, device)
    reference = random_vae(config, SEED, device, F32).decode(latents)
    report.add("latents", list(latents.shape))
    vae = random_vae(config, SEED, device, BF16)
    theirs, _ = error(diffusers_decode(diffusers_vae(vae), latents).float(), reference)
    report.add("diffusers bf16 against float32, relative", theirs)
    report.add("ours eager bf16, relative", error(vae.decode(latents).float(), reference)[0])
    ours, _ = error(fused(vae).decode(latents).float(), reference)
    report.add("ours vae-fused bf16, relative", ours)
    report.add("ours vae-fused / diffusers (bar 1.1)", ours / theirs)
    exact, _ = error(fused(random_vae(config, SEED, device, F32)).decode(latents), reference)
    report.add("ours vae-fused float32, relative", exact)


@torch.no_grad()
def clip(report: Report, name: str, shapes: VaeShapes, device: torch.device, *, with_eager: bool) -> None:
    """Seconds and peak memory of a whole decode, of ours and diffusers', and of a first frame."""
    config = shapes.configs[name.split()[0]]
    latents = bf16_latents(config, 1, shapes.clips[name], device)
    vae = random_vae(config, SEED, device, BF16)
    twin = diffusers_vae(vae)
    theirs = add_decode(
        report, "diffusers eager", partial(diffusers_decode, twin), latents, device, repeats=1
    )
    del twin
    if with_eager:
        report.attempt(
            "ours eager", partial(add_decode, report, "ours eager", vae.decode, latents, device, repeats=1)
        )
    free_memory()
    vae = fused(vae)
    ours = add_decode(report, "ours vae-fused", vae.decode, latents, device, repeats=3)
    report.add("diffusers / ours", theirs / ours)
    report.add("ours vae-fused, first latent, to uint8", first_latent_seconds(vae, latents, device), "s")
    vae.step = None
    vae = fused(vae, "cudnn")
    add_decode(report, "ours vae-fused, cuDNN alone", vae.decode, latents, device, repeats=3)


def add_decode(
    report: Report, name: str, decode: Decode, latents: Tensor, device: torch.device, *, repeats: int
) -> float:
    """Median seconds of `repeats` decodes, after one of two latent frames."""
    begin = time.perf_counter()
    decode(latents[:, :, :2])
    synchronize(device)
    report.add(f"{name}, the first two latent frames ever", time.perf_counter() - begin, "s")
    free_memory()
    peak_gb(device)
    times = [seconds_of(lambda: decode(latents), device) for _ in range(repeats)]
    report.add(f"{name}, median of {repeats}", statistics.median(times), "s")
    report.add(f"{name}, peak memory", peak_gb(device), "GB")
    return statistics.median(times)


def first_latent_seconds(vae: WanVAE, latents: Tensor, device: torch.device) -> float:
    """Of one call and its conversion, median of 5."""
    first = latents[:, :, :1]
    return statistics.median(
        seconds_of(lambda: to_uint8(vae.decode_step(first, None)[0]), device) for _ in range(5)
    )


@torch.no_grad()
def batches(report: Report, name: str, shapes: VaeShapes, device: torch.device) -> None:
    """Throughput of batches of clips against one, over a few latent frames."""
    config = shapes.configs[name.split()[0]]
    vae = fused(random_vae(config, SEED, device, BF16))
    shape = (shapes.few, *shapes.clips[name][1:])
    seconds: dict[int, float] = {}

    def add_batch(size: int) -> None:
        latents = bf16_latents(config, size, shape, device)
        label = f"batch {size}, {shapes.few} latent frames"
        seconds[size] = add_decode(report, label, vae.decode, latents, device, repeats=2)
        report.add(f"{label}, throughput of batch 1", size * seconds[1] / seconds[size], "times")

    for size in (1, 2, 4):
        report.attempt(f"batch {size}", partial(add_batch, size))


@torch.no_grad()
def tiled(report: Report, name: str, shapes: VaeShapes, device: torch.device) -> None:
    """Time and peak memory over a few latent frames: whole, in tiles in turn, in equal patches as a batch."""
    config = shapes.configs[name.split()[0]]
    latents = bf16_latents(config, 1, (shapes.few, *shapes.clips[name][1:]), device)
    vae = fused(random_vae(config, SEED, device, BF16))
    whole_step = vae.step
    whole = add_decode(report, f"whole, {shapes.few} latent frames", vae.decode, latents, device, repeats=2)

    def add_tiled(label: str, tiling: VaeTiling) -> None:
        vae.step = whole_step
        tiling.apply(vae)
        seconds = add_decode(report, label, vae.decode, latents, device, repeats=2)
        report.add(f"{label}, speed of the whole (published: 3.2)", whole / seconds, "times")

    for tile, overlap in shapes.tiles:
        for together in (False, True):
            tiling = VaeTiling(tile=tile, overlap=overlap, together=together)
            label = f"tiles {tile[0]}x{tile[1]}, overlap {overlap}, {'together' if together else 'in turn'}"
            report.attempt(label, partial(add_tiled, label, tiling))


@torch.no_grad()
def compiled(report: Report, name: str, shapes: VaeShapes, device: torch.device) -> None:
    """The same clip by `vae-compile`; the first two latent frames ever include making both graphs."""
    config = shapes.configs[name.split()[0]]
    latents = bf16_latents(config, 1, shapes.clips[name], device)
    vae = random_vae(config, SEED, device, BF16)
    VaeCompile(backend="inductor" if device.type == "cuda" else "eager").apply(vae)
    add_decode(report, "ours vae-compile", vae.decode, latents, device, repeats=2)
    report.add("ours vae-compile, first latent, to uint8", first_latent_seconds(vae, latents, device), "s")


@torch.no_grad()
def previews(report: Report, shapes: VaeShapes, device: torch.device) -> None:
    """Milliseconds of a linear preview of a whole clip's latents, on the host when it ends."""
    for name, shape in shapes.clips.items():
        config = shapes.configs[name.split()[0]]
        latents = bf16_latents(config, 1, shape, device)
        latent_rgb = torch.randn(config.z_dim + 1, 3)
        preview_frames(latents, latent_rgb)
        begin = time.perf_counter()
        for _ in range(5):
            preview_frames(latents, latent_rgb)
        report.add(f"{name}, every latent frame", (time.perf_counter() - begin) / 5 * 1e3, "ms")


def all_parts(shapes: VaeShapes, device: torch.device) -> dict[str, tuple[Callable[[Report], None], float]]:
    """Parts in the order in which they run, with the seconds that each takes on an H200."""
    dtype = BF16 if device.type == "cuda" else F32
    kernels = window_kernels("triton" if device.type == "cuda" else "torch", device, dtype)
    return {
        "2.1 accuracy": (lambda report: accuracy(report, "2.1", shapes, device), 5.0),
        "2.2 accuracy": (lambda report: accuracy(report, "2.2", shapes, device), 6.0),
        "2.1 480p81": (lambda report: clip(report, "2.1 480p81", shapes, device, with_eager=True), 10.0),
        "2.2 704p121": (lambda report: clip(report, "2.2 704p121", shapes, device, with_eager=False), 20.0),
        "convs": (lambda report: conv_table(report, shapes, device, dtype), 20.0),
        "windows": (lambda report: window_table(report, kernels, shapes, device, dtype), 2.0),
        "previews": (lambda report: previews(report, shapes, device), 1.0),
        "batches": (lambda report: batches(report, "2.1 480p81", shapes, device), 7.0),
        "tiles": (lambda report: tiled(report, "2.1 480p81", shapes, device), 6.0),
        "2.1 720p81": (lambda report: clip(report, "2.1 720p81", shapes, device, with_eager=False), 14.0),
        "compile": (lambda report: compiled(report, "2.1 480p81", shapes, device), 60.0),
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    names = list(all_parts(TINY, torch.device("cpu")))
    return part_arguments("VAE decoding at true shapes on one GPU, random weights", names, 90.0, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; 1 when one of them failed."""
    asked = arguments(argv)
    device = torch.device("cpu" if asked.tiny else "cuda")
    shapes = TINY if asked.tiny else TRUE
    # The reference is float32 in earnest: convolutions by default are not.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    about = {"commit": asked.commit, "tiny": asked.tiny, **about_machine(device)}
    about["diffusers"] = diffusers.__version__
    return run_parts("vae_gpu", asked, about, all_parts(shapes, device))


if __name__ == "__main__":
    sys.exit(main())
