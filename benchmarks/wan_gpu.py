"""Wan at its true shapes on one GPU, random weights: errors against diffusers, a whole generation, speed.

    python -m benchmarks.wan_gpu --commit $(git rev-parse --short HEAD) --seconds 130

Figures go to `$OUT/wan_gpu.json` (default benchmarks/results) and into the table printed last. `--tiny` runs
every part on the CPU in shapes that prove nothing but the code.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial

import diffusers
import torch
import transformers
from benchmarks.gpu_report import (
    Report,
    about_machine,
    free_memory,
    part_arguments,
    peak_gb,
    run_parts,
    seconds_of,
)
from benchmarks.random_wan import (
    TINY,
    TRUE,
    Shapes,
    cast_twin,
    diffusers_twin,
    random_wan,
    with_backend,
)
from benchmarks.small_kernels import error, measure
from benchmarks.wan_generation import generate_clip
from torch import Tensor

from rushes.models.configs import WanConfig
from rushes.models.wan import Wan, cast_weights

TIMESTEP = 900.0
BF16, F32 = torch.bfloat16, torch.float32
PEAK_TFLOPS = 989.4
"""Dense bfloat16 of an H200 SXM (NVIDIA's data sheet)."""

RESERVE_S = 8.0
"""What timing leaves of the budget to the last part."""

Forward = Callable[[], Tensor]


def inputs(
    config: WanConfig, shape: Sequence[int], text_len: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Latents, timestep and text states; bfloat16 numbers, so that no side rounds them."""
    generator = torch.Generator(device).manual_seed(7)
    latents, text = (
        torch.empty(size, dtype=BF16, device=device).normal_(generator=generator).float()
        for size in ((1, *shape), (1, text_len, config.text_dim))
    )
    return latents, torch.tensor([TIMESTEP], device=device), text


def our_forward(model: Wan, given: tuple[Tensor, ...]) -> Forward:
    """One call is one step: the prompt's keys and values are made beforehand."""
    latents, timestep, text = given
    context = model.encode_text(text)
    return lambda: model(latents, timestep, context)


def their_forward(model: diffusers.WanTransformer3DModel, given: tuple[Tensor, ...]) -> Forward:
    """The same of diffusers, with inputs cast as its pipeline casts them."""
    latents, timestep, text = given
    dtype = model.proj_out.weight.dtype
    latents, text = latents.to(dtype), text.to(dtype)
    return lambda: model(latents, timestep, text, return_dict=False)[0]


def add_error(report: Report, name: str, a: Tensor, b: Tensor) -> float:
    """Keep ||a-b||/||b|| and max|a-b|/max|b|; returns the first."""
    relative, maximum = error(a, b)
    report.add(f"{name}, relative", relative)
    report.add(f"{name}, max", maximum)
    return relative


@torch.no_grad()
def accuracy(report: Report, kind: str, shapes: Shapes, device: torch.device) -> None:
    """Our and diffusers' bfloat16 error against float32, at a size where float32 is affordable.

    One float32 model is held at a time, beside at most one in bfloat16.
    """
    config, shape = shapes.transformers[kind], shapes.short[kind]
    given = inputs(config, shape, shapes.text_len, device)
    report.add("latents", list(shape))
    ours = random_wan(config, 1, device, F32)
    reference = our_forward(ours, given)()
    cast_weights(ours, BF16)
    our_error = add_error(report, "ours bf16 against float32", our_forward(ours, given)(), reference)
    free_memory()
    theirs = diffusers_twin(ours)
    del ours
    add_error(report, "diffusers float32 against float32", their_forward(theirs, given)(), reference)
    cast_twin(theirs, BF16)
    out = their_forward(theirs, given)()
    their_error = add_error(report, "diffusers bf16 against float32", out, reference)
    report.add("ours / diffusers (bar 1.1)", our_error / their_error)


@torch.no_grad()
def full_shape(report: Report, kind: str, shapes: Shapes, device: torch.device, *, speed: bool) -> None:
    """How far the two bfloat16 outputs are apart at the model's own clip; `speed`: times too."""
    config, shape = shapes.transformers[kind], shapes.full[kind]
    given = inputs(config, shape, shapes.text_len, device)
    report.add("latents", list(shape))
    ours = random_wan(config, 1, device, BF16)
    theirs = cast_twin(diffusers_twin(ours), BF16)
    free_memory()
    forwards = {"ours, auto": our_forward(ours, given), "diffusers, eager": their_forward(theirs, given)}
    a, b = (forward() for forward in forwards.values())
    apart = add_error(report, "ours bf16 against diffusers bf16", a, b)
    floor = report.figure(kind, "diffusers bf16 against float32, relative")
    report.add("apart / diffusers' error at the short clip (bar 1.5)", apart / floor if floor else None)
    report.add("peak memory, both models", peak_gb(device), "GB")
    if not speed:
        return
    work = forward_flops(config, shape, shapes.text_len)
    for name, forward in forwards.items():
        add_speed(report, name, forward, work, device)
    for backend in ("cudnn", "fa3"):
        report.attempt(backend, partial(add_backend, report, backend, ours, given, a, work, device))


def add_backend(
    report: Report,
    backend: str,
    model: Wan,
    given: tuple[Tensor, ...],
    expected: Tensor,
    work: float,
    device: torch.device,
) -> None:
    """Error against the default attention kernel, whose call is the warm-up, and time."""
    forward = our_forward(with_backend(model, backend), given)
    add_error(report, f"ours, {backend} against auto", forward(), expected)
    add_speed(report, f"ours, {backend}", forward, work, device)


def add_speed(report: Report, name: str, forward: Forward, work: float, device: torch.device) -> None:
    """Median of three calls (fewer, and said so, when the budget ends) of a forward that is warm."""
    times: list[float] = []
    while len(times) < 3 and report.left_s > RESERVE_S + max(times, default=0.0):
        times.append(seconds_of(forward, device))
    if not times:
        report.add(name, "skipped: no time left")
        return
    median = statistics.median(times)
    report.add(f"{name}, median of {len(times)}", median, "s")
    report.add(f"{name}, share of {PEAK_TFLOPS} TFLOP/s", work / median / PEAK_TFLOPS / 1e12)


def forward_flops(config: WanConfig, shape: Sequence[int], text_len: int) -> float:
    """Floating point operations of the blocks for one clip, without the text's keys and values."""
    frames, rows, columns = (size // patch for size, patch in zip(shape[1:], config.patch_size, strict=True))
    tokens, dim = frames * rows * columns, config.dim
    matmuls = 2 * tokens * dim * (6 * dim + 2 * config.ffn_dim)
    return config.num_layers * (matmuls + 4 * tokens * (tokens + text_len) * dim)


def all_parts(shapes: Shapes, device: torch.device) -> dict[str, tuple[Callable[[Report], None], float]]:
    """Parts in the order in which they run, with the seconds that each takes on an H200."""

    def on(part: Callable[..., None], *args: object, **options: object) -> Callable[[Report], None]:
        return lambda report: part(report, *args, shapes, device, **options)

    return {
        "a14b": (on(accuracy, "a14b"), 20.0),
        "generation": (on(generate_clip), 60.0),
        "ti2v-5b": (on(accuracy, "ti2v-5b"), 8.0),
        "ti2v-5b-full": (on(full_shape, "ti2v-5b", speed=False), 8.0),
        "a14b-full": (on(full_shape, "a14b", speed=True), 18.0),
        "small": (lambda report: measure(report, device), 5.0),
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    names = list(all_parts(TINY, torch.device("cpu")))
    return part_arguments("Wan at its true shapes on one GPU, random weights", names, 150.0, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; 1 when one of them failed."""
    asked = arguments(argv)
    device = torch.device("cpu" if asked.tiny else "cuda")
    shapes = TINY if asked.tiny else TRUE
    # The reference is float32 in earnest: matmuls by default are, convolutions are not.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    versions = {"diffusers": diffusers.__version__, "transformers": transformers.__version__}
    about = {"commit": asked.commit, "tiny": asked.tiny, **about_machine(device), **versions}
    return run_parts("wan_gpu", asked, about, all_parts(shapes, device))


if __name__ == "__main__":
    sys.exit(main())
