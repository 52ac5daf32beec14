"""What stands between two causal convolutions of a video VAE, in one pass over memory.

A residual sum is finished (bias, shortcut), normed, put through SiLU and written behind its 2 past frames,
where the next convolution reads it; the last 2 frames are written once more for the next call. This file is
the specification in PyTorch; `rushes.ops.frame_window_triton` is the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rushes.errors import ConfigError, UnknownName
from rushes.ops.bordered_conv import BorderedConv, bordered_conv
from rushes.ops.chips import is_hopper

PAST = 2
"""Frames before a chunk that a 3-wide causal convolution sees."""

EPS = 1e-24


@dataclass(frozen=True, slots=True, kw_only=True)
class Addends:
    """An activation [B, T, H, W, C] that is not added up yet: values + bias + shortcut.

    Attributes:
        values: [B, T, H, W, C]; with `is_phased` [B, T, H/2 + 1, W/2 + 1, 4 * C], see `unphased`; with
            `is_bordered` [B, T, H + 1, W + 1, C], see `rushes.ops.bordered_conv`.
        bias: [C].
        shortcut: [B, T, H, W, C].
    """

    values: Tensor
    bias: Tensor | None = None
    shortcut: Tensor | None = None
    is_phased: bool = False
    is_bordered: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Of the sum."""
        b, t, h, w, c = self.values.shape
        if self.is_phased:
            return (b, t, 2 * (h - 1), 2 * (w - 1), c // 4)
        return (b, t, h - self.is_bordered, w - self.is_bordered, c)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a convolution reads, and what it leaves behind.

    Attributes:
        frames: [B, T + 2, H, W, C]; with borders [B, T + 2, H + 1, W + 1, C].
        past: its last 2 frames in memory of their own.
        total: the sum before the norm [B, T, H, W, C], None unless asked for.
    """

    frames: Tensor
    past: Tensor
    total: Tensor | None


FrameWindow = Callable[[Addends, Tensor | None, Tensor | None, bool, bool], Window]
"""(addends, past [B, 2, H, W, C] or None for zeros, norm weight [C] or None for neither norm nor SiLU,
whether the sum is wanted, whether frames get borders) -> the window."""


def unphased(values: Tensor) -> Tensor:
    """[B, T, H + 1, W + 1, 4 * C] -> [B, T, 2 * H, 2 * W, C]: undo `phase_weight`'s order of pixels."""
    b, t, h, w, c = values.shape
    h, w, c = h - 1, w - 1, c // 4
    cells = torch.unflatten(values, -1, (2, 2, c))
    rows = [torch.stack([cells[:, :, i : i + h, j : j + w, i, j] for j in (0, 1)], dim=4) for i in (0, 1)]
    return torch.stack(rows, dim=3).reshape(b, t, 2 * h, 2 * w, c)


def phase_weight(weight: Tensor) -> Tensor:
    """A 3x3 kernel [O, I, 3, 3] that follows a nearest doubling, as a 2x2 kernel [4 * O, I, 2, 2] before it.

    Of 9 products per doubled pixel at most 4 differ: a pixel and its copy share their input, so their weights
    are added. With padding 1, output (i + a, j + b) of channel group 2a + b is pixel (2i + a, 2j + b).
    """
    taps = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]]).to(weight.device, torch.float32)
    phases = torch.einsum("aks,blt,oist->aboikl", taps, taps, weight.float())
    return phases.flatten(0, 2).to(weight.dtype)


def total_of(addends: Addends) -> Tensor:
    """The sum, added up in float32, in the dtype of the values."""
    return _float32_total(addends).to(addends.values.dtype)


def frame_window(
    addends: Addends,
    past: Tensor | None,
    norm: Tensor | None,
    with_total: bool,
    with_border: bool,
) -> Window:
    """The specification of `FrameWindow`."""
    total = _float32_total(addends)
    dtype = addends.values.dtype
    activated = total if norm is None else F.silu(F.rms_norm(total, norm.shape, norm.float(), EPS))
    b, _, h, w, c = total.shape
    before = total.new_zeros(b, PAST, h, w, c, dtype=dtype) if past is None else past
    frames = torch.cat([before, activated.to(dtype)], dim=1)
    return Window(
        frames=F.pad(frames, (0, 0, 0, 1, 0, 1)) if with_border else frames,
        # A view would hold the whole window until the next call.
        past=frames[:, -PAST:].clone(),
        total=total.to(dtype) if with_total else None,
    )


def _float32_total(addends: Addends) -> Tensor:
    values = unphased(addends.values) if addends.is_phased else addends.values
    total = (values[:, :, :-1, :-1] if addends.is_bordered else values).float()
    if addends.bias is not None:
        total = total + addends.bias.float()
    return total if addends.shortcut is None else total + addends.shortcut.float()


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowKernels:
    """One implementation: windows, sums without one, and convolutions over bordered windows.

    Attributes:
        conv: None for a device or a dtype that it was not made for.
    """

    window: FrameWindow
    total: Callable[[Addends], Tensor]
    conv: BorderedConv | None


KERNELS = ("triton", "torch")
"""triton: one kernel a window, for CUDA. torch: the specification, anywhere."""


def window_kernels(name: str, device: torch.device, dtype: torch.dtype) -> WindowKernels:
    """The implementation called `name`, for that device and dtype.

    Raises:
        UnknownName: none of `KERNELS`.
        ConfigError: triton is asked for and the device is not CUDA, or Triton is not installed.
    """
    if name == "torch":
        return WindowKernels(window=frame_window, total=total_of, conv=bordered_conv)
    if name != "triton":
        raise UnknownName("kernels", name, KERNELS)
    if device.type != "cuda":
        raise ConfigError(f"kernels triton: the network is on {device.type}, Triton runs on cuda; use torch")
    try:
        from rushes.ops import bordered_conv_triton, frame_window_triton
    except ImportError as error:
        raise ConfigError(f"kernels triton: Triton is not installed ({error}); use torch") from error
    # Its tiles are those of Hopper: copied by TMA, multiplied by warp groups.
    has_conv = is_hopper(device) and dtype == torch.bfloat16
    return WindowKernels(
        window=frame_window_triton.frame_window,
        total=frame_window_triton.total_of,
        conv=bordered_conv_triton.bordered_conv if has_conv else None,
    )
