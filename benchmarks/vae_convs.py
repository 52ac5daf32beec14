"""How fast each convolution of the VAE decoders is, by cuDNN and by our own kernel, to pick from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from benchmarks.gpu_report import Report, seconds_of
from benchmarks.random_vae import VaeShapes
from torch import Tensor

from rushes.ops.frame_window import Addends, WindowKernels, phase_weight

REPEATS = 5
LAST_3D, LAST = torch.channels_last_3d, torch.channels_last


def best_of(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds after a warm-up."""
    call()
    return sorted(seconds_of(call, device) for _ in range(REPEATS))[REPEATS // 2]


def conv3d(window: Tensor, weight: Tensor) -> Tensor:
    """The window [1, T + 2, H, W, C] through one 3-D convolution."""
    return F.conv3d(window.movedim(-1, 1), weight, None, padding=(0, 1, 1))


@torch.no_grad()
def conv_table(report: Report, shapes: VaeShapes, device: torch.device, dtype: torch.dtype) -> None:
    """TFLOP/s of the 3x3x3 convolutions, milliseconds of the doublings folded and not."""
    for model, t, h, w, c, o in shapes.convs:
        label = f"VAE {model} {t}x{h}x{w} {c}->{o}"
        report.attempt(label, partial(add_conv, report, label, (t, h, w, c, o), device, dtype))
    for model, t, h, w, c, o in shapes.doublings:
        label = f"VAE {model} doubling {t}x{h}x{w} {c}->{o}"
        report.attempt(label, partial(add_doubling, report, label, (t, h, w, c, o), device, dtype))


def add_conv(
    report: Report, label: str, size: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> None:
    """One shape: cuDNN's rate, and on a GPU that of our kernel in each tile, and its error."""
    t, h, w, c, o = size
    work = 2 * 27 * c * o * t * h * w / 1e12
    window = torch.randn(1, t + 2, h, w, c, device=device, dtype=dtype)
    weight = torch.randn(o, c, 3, 3, 3, device=device, dtype=dtype).contiguous(memory_format=LAST_3D)
    report.add(label, work / best_of(partial(conv3d, window, weight), device), "TFLOP/s")
    if device.type != "cuda" or o < 32:  # a tile has 128 channels out
        return
    from rushes.ops.bordered_conv_triton import TILE, bordered_conv  # only where Triton is

    bordered = F.pad(window, (0, 0, 0, 1, 0, 1))
    expected = conv3d(window, weight).movedim(1, -1).float()
    found = bordered_conv(bordered, weight)[:, :, :-1, :-1].float()
    report.add(f"{label}, own against 3-D, relative", ((found - expected).norm() / expected.norm()).item())
    wide, broad = replace(TILE, inner=64), replace(TILE, rows=128, columns=256, inner=64)
    for name, tile in {"chosen": TILE, "wide": wide, "broad": broad}.items():
        if c % tile.inner == 0:
            seconds = best_of(partial(bordered_conv, bordered, weight, tile), device)
            report.add(f"{label}, own, {name} tile", work / seconds, "TFLOP/s")


def add_doubling(
    report: Report, label: str, size: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> None:
    """Milliseconds of a doubling and its convolution, written out and folded."""
    t, h, w, c, o = size
    images = torch.randn(t, h, w, c, device=device, dtype=dtype).movedim(-1, 1)
    weight = torch.randn(o, c, 3, 3, device=device, dtype=dtype).contiguous(memory_format=LAST)
    folded = phase_weight(weight).contiguous(memory_format=LAST)

    def written_out() -> Tensor:
        return F.conv2d(
            F.interpolate(images, scale_factor=2.0, mode="nearest-exact"), weight, None, padding=1
        )

    report.add(f"{label}, written out", best_of(written_out, device) * 1e3, "ms")
    report.add(f"{label}, folded", best_of(partial(F.conv2d, images, folded, padding=1), device) * 1e3, "ms")


@torch.no_grad()
def window_table(
    report: Report, kernels: WindowKernels, shapes: VaeShapes, device: torch.device, dtype: torch.dtype
) -> None:
    """GB/s, read and written, of the kernel between two convolutions, with and without a shortcut."""
    for model, t, h, w, c, _ in shapes.convs:
        for has_shortcut in (False, True):
            seconds, moved = window_seconds(kernels, (t, h, w, c), device, dtype, has_shortcut=has_shortcut)
            label = f"VAE {model} window {t}x{h}x{w}x{c}{', shortcut' if has_shortcut else ''}"
            report.add(label, moved / seconds / 1e9, "GB/s")


def window_seconds(
    kernels: WindowKernels,
    size: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    *,
    has_shortcut: bool,
) -> tuple[float, float]:
    """Seconds, and bytes that have to move."""
    t, h, w, c = size
    values, shortcut = torch.randn(2, 1, t, h, w, c, device=device, dtype=dtype)
    past = torch.randn(1, 2, h, w, c, device=device, dtype=dtype)
    norm, bias = torch.randn(2, c, device=device, dtype=dtype)
    addends = Addends(values=values, bias=bias, shortcut=shortcut if has_shortcut else None)
    seconds = best_of(lambda: kernels.window(addends, past, norm, has_shortcut, False), device)
    frames = t + 2 + (t + 2) + 2 + (2 * t if has_shortcut else 0)
    return seconds, float(frames * h * w * c * dtype.itemsize)
