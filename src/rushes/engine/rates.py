"""What a device makes of work: rates to start from, and the correction that is learned while it runs.

numpy and no torch: a gateway predicts too.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median_low
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rushes.engine.work import KINDS, Work

KEPT_SHAPES = 256
"""Different works whose seconds a stage remembers; the one unseen for longest is forgotten first."""

KEPT_SECONDS = 5
"""Latest seconds of one work: their median changes after three."""

RIDGE = np.array([0.01, 0.01, 0.01, 0.01, 0.01, 1e-4])
"""Pull of the rate of each kind of work towards the common scale, in squared relative error. The price of a
layer is known least, and misleads least: it fades as works grow."""

OUTLIER = 0.1
"""Relative error from which a work counts less in the fit."""

LEAST_FACTOR = 0.05
"""A kind of work takes at least this part of what the common scale says."""

CHANGE = 0.02
"""Relative change of a work's seconds that makes predictions be made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Speeds of a device.

    Attributes:
        linear, attention, conv: operations per second in each kind of work.
        moved: bytes per second.
        pixels: per second, through the video codec.
        layer_s: seconds of a layer beside its work, by stage; "" for other stages.
    """

    device: str
    linear: float
    attention: float
    conv: float
    moved: float
    pixels: float
    layer_s: Mapping[str, float]

    def seconds(self, stage: str, work: Work) -> tuple[float, ...]:
        """Seconds of each kind of work, in the order of `KINDS`."""
        layer_s = self.layer_s.get(stage, self.layer_s[""])
        return (
            work.linear / self.linear,
            work.attention / self.attention,
            work.conv / self.conv,
            work.moved / self.moved,
            work.pixels / self.pixels,
            work.layers * layer_s,
        )


H200 = Rates(
    device="NVIDIA H200",
    linear=750e12,
    attention=580e12,
    conv=330e12,
    moved=3.4e12,
    pixels=150e6,
    layer_s={"denoise": 250e-6, "text_encode": 800e-6, "vae_decode": 60e-6, "": 0.0},
)
"""Eager bfloat16. Matrix products, attention and bytes fit the four denoiser rows of facts/h200.md (A14B at
4,680, 32,760 and 75,600 tokens, 5B at 27,280) to -3..0 %, and lie inside the ceilings measured there
(720-813, 555-633 TFLOP/s). Convolutions fit our own decoder at 480p (22.5 and 58.1 ms for the first and each
other latent frame, benchmarks/results/wan_h200_generation.json) to -15 and -5 %, and diffusers' VAE 2.2 to
+17..34 %: one rate cannot serve both, and the first few units correct it. The codec's rate is a guess."""

CPU = Rates(
    device="cpu",
    linear=60e9,
    attention=30e9,
    conv=40e9,
    moved=8e9,
    pixels=20e6,
    layer_s={"": 400e-6},
)
"""Of the right magnitude for two cores and float32: a start that the first units of each stage correct."""


def rates_for(device: str) -> Rates:
    """Where to start on a device of this name (`torch.cuda.get_device_name`, or cpu)."""
    return CPU if device == CPU.device else Rates(**{**_fields(H200), "device": device})


def _fields(rates: Rates) -> dict[str, Any]:
    return {name: getattr(rates, name) for name in rates.__dataclass_fields__}


class StageFit:
    """Seconds of one stage of one pipeline on one device.

    A work that was seen a few times is predicted by its own median. Any other is predicted by the rates times
    a factor for each kind of work. The factors are fitted to all remembered works by ridge regression towards
    one common factor, in relative errors, works that fit badly counting less (Huber's weights).

    Attributes:
        version: grows when predictions change.
    """

    def __init__(self, stage: str, rates: Rates) -> None:
        self._stage, self._rates = stage, rates
        self._seen: OrderedDict[Work, deque[float]] = OrderedDict()
        self._factors: tuple[float, ...] = (1.0,) * len(KINDS)
        self._is_stale = False
        self._layer_s = self._by_factors(Work(layers=1.0))
        self.version = 0

    @property
    def layer_s(self) -> float:
        """Seconds of a layer beside its work: what a batch saves for every job but the first."""
        if self._is_stale:
            self._fit()
        return self._layer_s

    def predict(self, work: Work) -> float:
        """Seconds of `work`, alone on the device."""
        seconds = self._seen.get(work)
        if seconds is not None and len(seconds) >= 3:
            return median_low(seconds)
        return self._by_factors(work)

    def observe(self, work: Work, seconds: float) -> None:
        """`work` took so long."""
        if seconds <= 0:
            return
        kept = self._seen.setdefault(work, deque(maxlen=KEPT_SECONDS))
        before = median_low(kept) if kept else 0.0
        kept.append(seconds)
        self._seen.move_to_end(work)
        if len(self._seen) > KEPT_SHAPES:
            self._seen.popitem(last=False)
        if len(kept) <= 3 or abs(median_low(kept) - before) > CHANGE * before:
            self._is_stale = True
            self.version += 1

    def to_json(self) -> list[dict[str, Any]]:
        """What was observed, longest unseen first."""
        return [{"work": asdict(work), "seconds": list(kept)} for work, kept in self._seen.items()]

    def load(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Observe again what `to_json` wrote."""
        for row in rows:
            for seconds in row["seconds"]:
                self.observe(Work(**row["work"]), seconds)

    def _by_factors(self, work: Work) -> float:
        if self._is_stale:
            self._fit()
        return sum(
            factor * seconds
            for factor, seconds in zip(self._factors, self._rates.seconds(self._stage, work), strict=True)
        )

    def _fit(self) -> None:
        self._factors, self._is_stale = self._fitted(), False
        self._layer_s = self._by_factors(Work(layers=1.0))

    def _fitted(self) -> tuple[float, ...]:
        actual = np.array([median_low(kept) for kept in self._seen.values()])
        rated = np.array([self._rates.seconds(self._stage, work) for work in self._seen])
        scale = median_low((actual / rated.sum(1)).tolist())
        # Relative errors of factors f, each in units of the common scale: parts @ f - 1.
        parts = scale * rated / actual[:, None]
        factors = np.ones(parts.shape[1])
        for _ in range(4):
            errors = np.abs(parts @ factors - 1)
            factors = _solve(parts, OUTLIER / np.maximum(errors, OUTLIER))
        return tuple((scale * factors).tolist())


def _solve(parts: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors of least squared weighted error and distance from 1, none below `LEAST_FACTOR`."""
    factors = np.full(parts.shape[1], LEAST_FACTOR)
    is_open = np.ones(parts.shape[1], bool)
    for _ in range(parts.shape[1]):
        free, rest = parts[:, is_open], 1 - parts[:, ~is_open] @ factors[~is_open]
        normal = free.T @ (weights[:, None] * free) + np.diag(RIDGE[is_open])
        found = np.linalg.solve(normal, free.T @ (weights * rest) + RIDGE[is_open])
        factors[is_open] = np.maximum(found, LEAST_FACTOR)
        if (found >= LEAST_FACTOR).all():
            break
        is_open[np.flatnonzero(is_open)[found < LEAST_FACTOR]] = False
        if not is_open.any():
            break
    return factors
