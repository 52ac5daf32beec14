"""The kernels of the precision and attention passes at A14B's shapes on one GPU: time, rate and error.

    python -m benchmarks.kernels_gpu --commit $(git rev-parse --short HEAD) --seconds 60

Figures go to `$OUT/kernels_gpu.json` (default benchmarks/results) and into the table printed last. `--tiny`
runs every part on the CPU in shapes that prove nothing but the code. Times are medians of interleaved rounds;
rates count the operations of the work kept (a sparse kernel's, at its density); errors are against float32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from benchmarks.gpu_report import Report, about_machine, part_arguments, run_parts, seconds_of
from benchmarks.small_kernels import error
from torch import Tensor, nn

from rushes.ops.attention import attention
from rushes.ops.attention_fp8 import attention_fp8, quantize_heads
from rushes.ops.fa3 import fa3_module
from rushes.ops.fp8 import quantize_rows, quantize_rows_in_one, quantize_rows_reference, scaled_mm
from rushes.ops.int8 import int8_linear, quantize_static, quantize_weight
from rushes.ops.linear_attention import linear_attention
from rushes.ops.norm import modulated_layer_norm
from rushes.ops.patch import Size3
from rushes.ops.radial_mask import RadialMask, density_of, kept_blocks
from rushes.ops.sparse import FLEX_BLOCK, radial_attention
from rushes.ops.sparse_fp8 import radial_attention_fp8
from rushes.ops.sparse_pages import PAGE, PAGE_FP8, QUERY_BLOCK
from rushes.passes.fp8 import Fp8Linear

BF16 = torch.bfloat16
ROUNDS = 4
CHECKED_ROWS = 256
"""Rows, or queries, whose error against float32 is taken."""

Call = Callable[[], Tensor]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What a run measures.

    Attributes:
        grids: frames, rows and columns of tokens, by name.
        masks: of the sparse kernels, by name.
        odd_rows: numbers of rows that are no multiple of anything.
    """

    dim: int
    ffn_dim: int
    heads: int
    grids: Mapping[str, Size3]
    masks: Mapping[str, RadialMask]
    odd_rows: tuple[int, ...]

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Features in and out."""
        d, f = self.dim, self.ffn_dim
        return {"qkv": (d, 3 * d), "out and cross": (d, d), "ffn up": (d, f), "ffn down": (f, d)}


TRUE = Shapes(
    dim=5120,
    ffn_dim=13824,
    heads=40,
    grids={"480p": (21, 30, 52), "720p": (21, 45, 80)},
    masks={
        "sparse flex": RadialMask(density=0.25, block=FLEX_BLOCK),
        "sparse fa3": RadialMask(density=0.25, block=QUERY_BLOCK, key_block=PAGE),
        "sparse fa3 fp8": RadialMask(density=0.25, block=QUERY_BLOCK, key_block=PAGE_FP8),
    },
    odd_rows=(1, 17, 1561),
)
TINY = Shapes(
    dim=64,
    ffn_dim=96,
    heads=2,
    grids={"480p": (6, 4, 6), "720p": (6, 5, 6)},
    masks={
        "sparse flex": RadialMask(density=0.25, block=8),
        "sparse fa3": RadialMask(density=0.25, block=16, key_block=11),
        "sparse fa3 fp8": RadialMask(density=0.25, block=16, key_block=14),
    },
    odd_rows=(1, 17),
)


def normal(*shape: int, device: torch.device, std: float = 1.0) -> Tensor:
    """bfloat16 numbers of a fixed seed."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    return torch.empty(shape, dtype=BF16, device=device).normal_(0, std, generator=generator)


def time_all(
    report: Report, calls: Mapping[str, Call], work: Mapping[str, float], device: torch.device
) -> None:
    """Warm each call, then time all of them in turn; a call that fails is noted and left out."""
    ready: dict[str, Call] = {}
    for name, call in calls.items():
        try:
            call()
            ready[name] = call
        except Exception as caught:  # the other kernels are still wanted
            report.add(name, f"failed: {type(caught).__name__}: {str(caught).strip().splitlines()[:1]}")
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(ROUNDS):
        for name, call in ready.items():
            times[name].append(seconds_of(call, device))
    for name, taken in times.items():
        median = statistics.median(taken)
        report.add(name, median * 1e3, "ms")
        if name in work:
            report.add(name, work[name] / median / 1e12, "TFLOP/s")


@torch.no_grad()
def linears(report: Report, grid: str, shapes: Shapes, device: torch.device) -> None:
    """The matmuls alone, codes given, and with eager quantisation; errors of the whole layers."""
    frames, rows, columns = shapes.grids[grid]
    tokens = frames * rows * columns
    for name, (size_in, size_out) in shapes.linears.items():
        x = normal(tokens, size_in, device=device)
        linear = nn.Linear(size_in, size_out, device=device, dtype=BF16)
        fp8 = Fp8Linear(linear, use_fast_accum=True)
        codes, scale = quantize_rows(x)
        weight, weight_scale = quantize_weight(linear.weight)
        x_scale = x.abs().max().float() / 127
        x_codes = quantize_static(x, x_scale)
        fp8_given = (codes, fp8.weight, scale, fp8.scale, fp8.bias, BF16)
        int8_given = (weight, x_scale, weight_scale, linear.bias, BF16)
        calls: dict[str, Call] = {
            "bf16": partial(linear, x),
            "fp8, codes given": partial(scaled_mm, *fp8_given),
            "fp8, codes given, slow accumulation": partial(scaled_mm, *fp8_given, use_fast_accum=False),
            "fp8, eager quantisation": partial(fp8, x),
            "int8, codes given": partial(int8_linear, x_codes, *int8_given),
        }
        if device.type == "cuda":
            calls["int8, sums only"] = partial(torch._int_mm, x_codes, weight.t())
        calls = {f"{name}, {kind}": call for kind, call in calls.items()}
        work = dict.fromkeys(calls, 2.0 * tokens * size_in * size_out)
        time_all(report, calls, work, device)
        expected = F.linear(x[:CHECKED_ROWS].float(), linear.weight.float(), linear.bias.float())
        outs = {
            "bf16": linear(x[:CHECKED_ROWS]),
            "fp8": fp8(x[:CHECKED_ROWS]),
            "int8": int8_linear(x_codes[:CHECKED_ROWS], *int8_given),
        }
        for kind, out in outs.items():
            report.add(f"{name}, {kind}, relative error", error(out, expected)[0])


@torch.no_grad()
def odd_rows(report: Report, shapes: Shapes, device: torch.device) -> None:
    """Numbers of rows that no tile divides, against the bf16 layer."""
    linear = nn.Linear(shapes.dim, shapes.dim, device=device, dtype=BF16)
    fp8 = Fp8Linear(linear, use_fast_accum=True)
    for count in shapes.odd_rows:
        x = normal(count, shapes.dim, device=device)
        apart = f"{count} rows, fp8 against bf16"
        report.attempt(apart, lambda x=x, apart=apart: report.add(apart, error(fp8(x), linear(x))[0]))


@torch.no_grad()
def compiled(report: Report, grid: str, shapes: Shapes, device: torch.device) -> None:
    """What a compiled block makes of them: quantisation fused into the norm and the GELU before it."""
    frames, rows, columns = shapes.grids[grid]
    tokens, dim, ffn_dim = frames * rows * columns, shapes.dim, shapes.ffn_dim
    x = normal(1, tokens, dim, device=device).float()
    shift, scale = (normal(1, 1, 1, dim + i, device=device)[..., :dim].float() for i in (0, 1))
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    layers = {
        kind: nn.Linear(a, b, device=device, dtype=BF16)
        for kind, (a, b) in {"qkv": (dim, 3 * dim), "up": (dim, ffn_dim), "down": (ffn_dim, dim)}.items()
    }
    calls: dict[str, Call] = {}
    for precision in ("bf16", "fp8"):
        used = {
            kind: Fp8Linear(linear, use_fast_accum=True) if precision == "fp8" else linear
            for kind, linear in layers.items()
        }

        def norm_qkv(x: Tensor, used: dict[str, nn.Module] = used) -> Tensor:
            return used["qkv"](modulated_layer_norm(x, shift, scale, eps=1e-6).to(BF16))

        def norm_ffn(x: Tensor, used: dict[str, nn.Module] = used) -> Tensor:
            hidden = used["up"](modulated_layer_norm(x, shift, scale, eps=1e-6).to(BF16))
            return used["down"](F.gelu(hidden, approximate="tanh"))

        for name, call in (("norm + qkv", norm_qkv), ("norm + ffn", norm_ffn)):
            calls[f"{name}, {precision}, eager"] = partial(call, x)
            graph = torch.compile(call, backend=backend, dynamic=False, fullgraph=True)
            calls[f"{name}, {precision}, compiled"] = partial(graph, x)
    work = {name: 2.0 * tokens * dim * (3 * dim if "qkv" in name else 2 * ffn_dim) for name in calls}
    time_all(report, calls, work, device)
    for name in ("norm + qkv", "norm + ffn"):
        outs = [calls[f"{name}, {kind}, compiled"]()[:, :CHECKED_ROWS] for kind in ("fp8", "bf16")]
        report.add(f"{name}, fp8 against bf16, relative", error(*outs)[0])


@torch.no_grad()
def attentions(report: Report, grid: str, shapes: Shapes, device: torch.device) -> None:
    """Dense kernels, float8, block-sparse and linear ones."""
    size = shapes.grids[grid]
    tokens, head_dim = size[0] * size[1] * size[2], shapes.dim // shapes.heads
    q, k, v = (normal(1, tokens, shapes.heads, head_dim + i, device=device)[..., :head_dim] for i in range(3))
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    densities = {name: density_of(mask, size) for name, mask in shapes.masks.items()}
    for name, density in densities.items():
        report.add(f"{name}, density", density)
    on_gpu = device.type == "cuda"
    calls: dict[str, Call] = {
        "cudnn": partial(attention, q, k, v, backend="cudnn" if on_gpu else "sdpa"),
        "fp8, eager quantisation": partial(attention_fp8, q, k, v),
        **_sparse_calls((q, k, v), size, shapes, device),
        "linear": partial(linear_attention, q, k, v),
        "linear, compiled": partial(_compile(linear_attention, device), q, k, v),
    }
    if fa3_module() is not None and on_gpu:
        calls["fa3"] = partial(attention, q, k, v, backend="fa3")
    codes = [quantize_heads(x) for x in (q, k, v)]
    given = ([x for x, _ in codes], [scale for _, scale in codes])
    calls["fp8, codes given"] = lambda: torch.ops.rushes.attention_fp8(*given[0], *given[1])
    calls["fp8, compiled quantisation"] = partial(_compile(attention_fp8, device), q, k, v)
    dense = 4.0 * tokens * tokens * shapes.dim
    linear = 4.0 * tokens * head_dim * shapes.dim
    work = {name: linear if "linear" in name else dense for name in calls}
    work |= {name: dense * density for name, density in densities.items()}
    time_all(report, calls, work, device)
    _attention_errors(report, calls, (q, k, v), shapes.masks, size)


def _sparse_calls(
    qkv: tuple[Tensor, Tensor, Tensor], size: Size3, shapes: Shapes, device: torch.device
) -> dict[str, Call]:
    """One a mask; that of float8 quantises in compiled code."""
    fp8 = _compile(radial_attention_fp8, device)
    return {
        "sparse flex": partial(radial_attention, *qkv, size, shapes.masks["sparse flex"]),
        "sparse fa3": partial(radial_attention, *qkv, size, shapes.masks["sparse fa3"], backend="fa3"),
        "sparse fa3 fp8": partial(fp8, *qkv, size, shapes.masks["sparse fa3 fp8"]),
    }


def _compile(call: Callable[..., T], device: torch.device) -> Callable[..., T]:
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    return torch.compile(call, backend=backend, dynamic=False, fullgraph=True)


def _attention_errors(
    report: Report,
    calls: Mapping[str, Call],
    qkv: tuple[Tensor, Tensor, Tensor],
    masks: Mapping[str, RadialMask],
    grid: Size3,
) -> None:
    """Of queries in the middle, head 0, against float32: dense kernels against softmax over all keys, the
    sparse ones against the masked softmax, and that one against the dense."""
    q, k, v = (x[0, :, 0].float() for x in qkv)
    some = slice(q.shape[0] // 2, q.shape[0] // 2 + CHECKED_ROWS)
    scores = q[some] @ k.T / q.shape[1] ** 0.5
    dense = scores.softmax(-1) @ v
    expected_of = dict.fromkeys(("cudnn", "fa3", "fp8, compiled quantisation"), dense)
    for name, mask in masks.items():
        kept = _mask_rows(mask, grid, some).to(q.device)
        expected_of[name] = scores.masked_fill(~kept, float("-inf")).softmax(-1) @ v
        report.add(f"masked as {name} against dense softmax, relative", error(expected_of[name], dense)[0])
    for name, expected in expected_of.items():
        if name not in calls:
            continue

        def add(name: str = name, expected: Tensor = expected) -> None:
            out = calls[name]()
            out = out[0] if isinstance(out, tuple) else out
            report.add(f"{name}, relative error", error(out[0, some, 0].float(), expected)[0])

        report.attempt(f"{name}, relative error", add)


def _mask_rows(mask: RadialMask, grid: Size3, rows: slice) -> Tensor:
    num_tokens = grid[0] * grid[1] * grid[2]
    tokens = torch.arange(num_tokens)
    return kept_blocks(mask, grid)[tokens[rows, None] // mask.block, tokens[None] // mask.keys]


@torch.no_grad()
def quantising(report: Report, grid: str, shapes: Shapes, device: torch.device) -> None:
    """GELU and attention's output to codes: the own kernel beside the plain operators, compiled."""
    frames, rows, columns = shapes.grids[grid]
    for name, width, has_gelu in (("gelu", shapes.ffn_dim, True), ("attention's output", shapes.dim, False)):
        x = normal(frames * rows * columns, width, device=device)
        plain = _compile(quantize_rows_reference, device)
        calls: dict[str, Call] = {
            f"{name}, own": lambda x=x, g=has_gelu: quantize_rows_in_one(x, has_gelu=g)[0],
            f"{name}, compiled": lambda x=x, g=has_gelu, plain=plain: plain(x, g)[0],
        }
        time_all(report, calls, {}, device)
        own, other = (call()[:CHECKED_ROWS].float() for call in calls.values())
        report.add(f"{name}, share of other codes", float((own != other).float().mean()))
        report.add(f"{name}, own against compiled, relative", error(own, other)[0])


def all_parts(shapes: Shapes, device: torch.device) -> dict[str, tuple[Callable[[Report], None], float]]:
    """Parts in the order in which they run, with the seconds that each takes on an H200."""

    def on(part: Callable[..., None], *args: object) -> Callable[[Report], None]:
        return lambda report: part(report, *args, shapes, device)

    return {
        "linears 480p": (on(linears, "480p"), 4.0),
        "odd rows": (on(odd_rows), 1.0),
        "quantising 480p": (on(quantising, "480p"), 4.0),
        "attention 480p": (on(attentions, "480p"), 12.0),
        "compiled 480p": (on(compiled, "480p"), 15.0),
        "attention 720p": (on(attentions, "720p"), 12.0),
        "linears 720p": (on(linears, "720p"), 4.0),
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    names = list(all_parts(TINY, torch.device("cpu")))
    return part_arguments("Kernels of the passes at A14B's shapes on one GPU", names, 60.0, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; 1 when one of them failed."""
    asked = arguments(argv)
    device = torch.device("cpu" if asked.tiny else "cuda")
    torch.manual_seed(0)
    # The reference is float32 in earnest.
    torch.backends.cuda.matmul.allow_tf32 = False
    about = {"commit": asked.commit, "tiny": asked.tiny, **about_machine(device)}
    return run_parts("kernels_gpu", asked, about, all_parts(TINY if asked.tiny else TRUE, device))


if __name__ == "__main__":
    sys.exit(main())
