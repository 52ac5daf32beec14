"""Linear layers on int8 codes, inputs scaled by ranges measured beforehand: for chips without float8."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from rushes.errors import ConfigError, UnknownName
from rushes.models.phase import PLAIN, Phase, PhaseLinear
from rushes.ops.int8 import ALIGNMENT, LARGEST, int8_linear, quantize_static, quantize_weight
from rushes.passes.base import Part
from rushes.passes.blocks import transformer
from rushes.passes.calibration import (
    PERCENTILES,
    Calibration,
    Ranges,
    TimestepBuckets,
    bucket_label,
    read_calibration,
)
from rushes.passes.linears import ALL_TARGETS, check_sizes, check_targets, replace_linears

Method = Literal["min-max", "percentile", "smoothquant"]


class Int8Linear(PhaseLinear):
    """x W^T + b with W as int8 codes, a scale a row, and x quantised by a fixed scale.

    Attributes:
        weight: int8 codes [out, in] of W * smooth.
        scale: float32 [out, 1].
        x_scales: float32 [S + 1]: one for each timestep bucket, and last the one for any timestep.
        smooth: float32 [in], by which x is divided, or None.
        bias: [out], or None.
        dtype: of the result, that of the layer which this one replaces.
    """

    def __init__(self, linear: nn.Linear, x_peaks: Tensor, smooth: Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = linear.weight.dtype
        self._labels = tuple(bucket_label(bucket) for bucket in range(len(x_peaks) - 1))
        weight = linear.weight.detach().float()
        codes, scale = quantize_weight(weight if smooth is None else weight * smooth)
        self.weight = _fixed(codes)
        self.scale = _fixed(scale)
        self.x_scales = _fixed(x_peaks.clamp_min(1e-12) / LARGEST)
        self.smooth = None if smooth is None else _fixed(smooth)
        self.bias = None if linear.bias is None else _fixed(linear.bias.detach().clone())

    def forward(self, x: Tensor, phase: Phase = PLAIN) -> Tensor:
        """x [..., in] -> [..., out]."""
        rows = x.flatten(0, -2)
        x_scale = self.x_scales[self._bucket(phase)]
        codes = quantize_static(rows if self.smooth is None else rows / self.smooth, x_scale)
        out = int8_linear(codes, self.weight, x_scale, self.scale, self.bias, self.dtype)
        return out.view(*x.shape[:-1], self.out_features)

    def _bucket(self, phase: Phase) -> int:
        return next((i for i, label in enumerate(self._labels) if label in phase), len(self._labels))

    def extra_repr(self) -> str:
        """As `nn.Linear` prints."""
        return f"in_features={self.in_features}, out_features={self.out_features}, dtype={self.dtype}"


def _fixed(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Linears:
    """Run the blocks' linear layers on int8 codes with static input scales.

    Attributes:
        calibration: file written by `rushes.passes.calibration.write_calibration`; its buckets are used.
        method: how a range becomes a scale. "min-max": the largest magnitude. "percentile": the given
            percentile of all magnitudes, beyond which numbers are cut. "smoothquant": min-max after moving
            s_j = peak_j^alpha / |W_j|^(1 - alpha) of each channel into the weight (arXiv:2211.10438, eq. 4).
        percentile: one of `rushes.passes.calibration.PERCENTILES`.
        alpha: of "smoothquant", from 0 to 1.
        targets: names of `rushes.passes.linears.TARGETS`.
        keep_blocks: blocks left in the network's own dtype; -1 is the last.
    """

    name: ClassVar[str] = "int8-linears"
    part: ClassVar[Part] = "transformer"
    order: ClassVar[int] = 20

    calibration: str
    method: Method = "smoothquant"
    percentile: float = 99.99
    alpha: float = 0.5
    targets: tuple[str, ...] = ALL_TARGETS
    keep_blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_targets(f"pass {self.name}", self.targets)
        if self.method not in get_args(Method):
            raise UnknownName("method", self.method, get_args(Method))
        if self.percentile not in PERCENTILES:
            choices = ", ".join(map(str, PERCENTILES))
            raise ConfigError(f"pass {self.name}: percentile {self.percentile}; choose from {choices}")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"pass {self.name}: alpha is {self.alpha}; needs to be from 0 to 1")

    def files(self) -> tuple[Path, ...]:
        """See `ReadsFiles`."""
        return (Path(self.calibration),)

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        where = f"pass {self.name}"
        wan = transformer(where, network)
        ranges = read_calibration(Path(self.calibration), wan)
        num_buckets = len(next(iter(ranges.values())).peaks)
        replace_linears(where, wan, self.targets, self.keep_blocks, partial(self._replaced, ranges))
        wan.phase_rules = (*wan.phase_rules, TimestepBuckets(num_buckets=num_buckets))
        return wan

    def _replaced(self, ranges: Calibration, name: str, linear: nn.Linear) -> Int8Linear:
        where = f"pass {self.name}: {name}"
        if linear.weight.device.type not in ("cpu", "cuda"):
            raise ConfigError(f"{where}: no int8 matmul on {linear.weight.device.type}; choose cuda or cpu")
        check_sizes(where, linear, ALIGNMENT)
        if name not in ranges:
            raise ConfigError(f"{where}: calibration {self.calibration} does not hold this layer")
        found = ranges[name]
        if found.peaks.shape[1] != linear.in_features:
            raise ConfigError(f"{where}: calibrated for {found.peaks.shape[1]} in_features")
        made = Int8Linear(linear, *self._scaling(found, linear.weight.detach()))
        assert made.weight.dtype == torch.int8, f"{name} is stored as {made.weight.dtype}"
        return made

    def _scaling(self, ranges: Ranges, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """Peaks of x by bucket and over all of them, on the weight's device, and the channels' divisors."""
        peaks, smooth = ranges.peaks.to(weight.device), None
        if self.method == "percentile":
            column = PERCENTILES.index(self.percentile)
            by_bucket = ranges.percentiles[:, column].to(weight.device)
        else:
            if self.method == "smoothquant":
                smooth = _smoothing(peaks.amax(0), weight.float().abs().amax(0), self.alpha)
                peaks = peaks / smooth
            by_bucket = peaks.amax(1)
        whole = by_bucket.amax()
        # A bucket that calibration did not meet takes the range of all others.
        return torch.cat((torch.where(by_bucket > 0, by_bucket, whole), whole[None])), smooth


def _smoothing(x_peaks: Tensor, weight_peaks: Tensor, alpha: float) -> Tensor:
    least = 1e-5
    return x_peaks.clamp_min(least) ** alpha / weight_peaks.clamp_min(least) ** (1 - alpha)
