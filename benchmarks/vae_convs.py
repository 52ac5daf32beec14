"""How fast each convolution of the VAE decoders is, and each other way to compute it, to pick from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from benchmarks.gpu_report import Report, seconds_of
from benchmarks.random_vae import VaeShapes
from torch import Tensor

from rushes.models.wan_vae_blocks import as_images
from rushes.ops.frame_window import Addends, WindowKernels, phase_weight

if TYPE_CHECKING:
    from rushes.ops.bordered_conv_triton import ConvTile

REPEATS = 5
LAST_3D, LAST = torch.channels_last_3d, torch.channels_last


def best_of(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds after a warm-up."""
    call()
    return sorted(seconds_of(call, device) for _ in range(REPEATS))[REPEATS // 2]


def conv3d(window: Tensor, weight: Tensor) -> Tensor:
    """The window [1, T + 2, H, W, C] through one 3-D convolution."""
    return F.conv3d(window.movedim(-1, 1), weight, None, padding=(0, 1, 1))


def added_conv2d(window: Tensor, weights: list[Tensor]) -> Tensor:
    """The same as three 2-D convolutions that are added up."""
    span = window.shape[1] - 2
    parts = [
        F.conv2d(as_images(window[:, tap : tap + span]), weight, None, padding=1)
        for tap, weight in enumerate(weights)
    ]
    return parts[0].add_(parts[1]).add_(parts[2])


def wide_conv2d(stacked: Tensor, weight: Tensor) -> Tensor:
    """The same as one 2-D convolution of 3 frames side by side in channels, which the window would hold."""
    return F.conv2d(stacked.movedim(-1, 1), weight, None, padding=1)


@torch.no_grad()
def conv_table(report: Report, shapes: VaeShapes, device: torch.device, dtype: torch.dtype) -> None:
    """TFLOP/s of the 3x3x3 convolutions each way, of the doublings folded and not."""
    for model, t, h, w, c, o in shapes.convs:
        label = f"VAE {model} {t}x{h}x{w} {c}->{o}"
        report.attempt(label, partial(add_conv, report, label, (t, h, w, c, o), device, dtype))
    for model, t, h, w, c, o in shapes.doublings:
        label = f"VAE {model} doubling {t}x{h}x{w} {c}->{o}"
        report.attempt(label, partial(add_doubling, report, label, (t, h, w, c, o), device, dtype))


def add_conv(
    report: Report, label: str, size: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> None:
    """One shape: 3-D, 3-D picked by trial, three 2-D, one wide 2-D."""
    t, h, w, c, o = size
    work = 2 * 27 * c * o * t * h * w / 1e12
    window = torch.randn(1, t + 2, h, w, c, device=device, dtype=dtype)
    weight = torch.randn(o, c, 3, 3, 3, device=device, dtype=dtype).contiguous(memory_format=LAST_3D)
    taps = [weight[:, :, tap].contiguous(memory_format=LAST) for tap in range(3)]
    wide = weight.movedim(2, 1).flatten(1, 2).contiguous(memory_format=LAST)
    stacked = torch.cat([window[0, tap : tap + t] for tap in range(3)], dim=-1)
    ways = {
        "3-D": partial(conv3d, window, weight),
        "three 2-D": partial(added_conv2d, window, taps),
        "wide 2-D": partial(wide_conv2d, stacked, wide),
    }
    for name, way in ways.items():
        seconds = best_of(way, device)
        report.add(f"{label}, {name}", work / seconds, "TFLOP/s")
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        # A shape that has run keeps its plan; another batch size would be another shape, so one more frame.
        longer = torch.cat([window, window[:, :1]], dim=1)
        seconds = best_of(partial(conv3d, longer, weight), device)
        report.add(f"{label}, 3-D picked by trial, one frame more", work * (t + 1) / t / seconds, "TFLOP/s")


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
def own_conv_table(report: Report, shapes: VaeShapes, device: torch.device) -> None:
    """Our own convolution beside cuDNN's, and its other tiles."""
    for model, t, h, w, c, o in shapes.own_convs:
        label = f"VAE {model} {t}x{h}x{w} {c}->{o}"
        report.attempt(f"{label}, own", partial(add_own_conv, report, label, (t, h, w, c, o), device))


def add_own_conv(report: Report, label: str, size: tuple[int, ...], device: torch.device) -> None:
    """One shape: error against cuDNN's, and the rates."""
    from rushes.ops.bordered_conv_triton import NARROW, PAIR, WIDE, tile_of  # only where Triton is
    from rushes.ops.bordered_conv_triton import bordered_conv as own_conv

    t, h, w, c, o = size
    work = 2 * 27 * c * o * t * h * w / 1e12
    window = torch.randn(1, t + 2, h, w, c, device=device, dtype=torch.bfloat16)
    weight = torch.randn(o, c, 3, 3, 3, device=device, dtype=torch.bfloat16).contiguous(memory_format=LAST_3D)
    bordered = F.pad(window, (0, 0, 0, 1, 0, 1))
    expected = conv3d(window, weight).movedim(1, -1).float()
    found = own_conv(bordered, weight)[:, :, :-1, :-1].float()
    report.add(f"{label}, own against 3-D, relative", ((found - expected).norm() / expected.norm()).item())
    report.add(f"{label}, 3-D", work / best_of(partial(conv3d, window, weight), device), "TFLOP/s")
    broad = replace(WIDE, rows=128, columns=256)
    for name, tile in {"wide": WIDE, "broad": broad, "narrow": NARROW, "pair": PAIR}.items():
        if c % tile.inner or t % tile.frames:
            continue

        def add_tile(name: str = name, tile: ConvTile = tile) -> None:
            seconds = best_of(partial(own_conv, bordered, weight, tile), device)
            chosen = ", chosen" if tile == tile_of(t, c, o) else ""
            report.add(f"{label}, own {name}{chosen}", work / seconds, "TFLOP/s")

        report.attempt(f"{label}, own {name}", add_tile)


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
