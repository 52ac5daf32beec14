"""Predicted seconds of requests, units and batches on one device, learned while it runs. No torch here.

Work is counted exactly from shapes (`rushes.engine.units`), turned into seconds by rates, and corrected by
what units really took (`rushes.engine.rates`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rushes.engine.memory import job_memory
from rushes.engine.rates import Rates, StageFit
from rushes.engine.shapes import ModelShape
from rushes.engine.units import Span, Spans, spans_of
from rushes.engine.vae_work import decode_work, most_decoded_together
from rushes.engine.work import SHARED_STAGES, Work, forward_work, joint_work
from rushes.errors import ConfigError, UnknownName
from rushes.stages.base import BatchKey
from rushes.types import GenerateRequest

HOST_STAGES = frozenset(("video_encode",))
"""Stages that run beside the device and are not counted in its seconds."""

MOST_SHARED = 0.95
"""Of a unit, what a batch can save at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePrediction:
    """One stage of one request alone.

    Attributes:
        unit_s: mean of the units after the first.
    """

    units: int
    first_unit_s: float
    unit_s: float

    @property
    def total_s(self) -> float:
        """Seconds of all units."""
        return self.first_unit_s + (self.units - 1) * self.unit_s


class CostModel:
    """Seconds on one device. Its methods may be called from any thread.

    Args:
        shapes: of the models that it predicts, by pipeline.
    """

    def __init__(self, rates: Rates, shapes: Mapping[str, ModelShape]) -> None:
        self.rates = rates
        self.shapes = dict(shapes)
        self._fits: dict[tuple[str, str], StageFit] = {}
        self._forwards: dict[BatchKey, Work] = {}
        self._lock = threading.RLock()

    def predict(self, request: GenerateRequest) -> Prediction:
        """What a request takes alone. Raises `UnknownName` for a pipeline without a shape."""
        shape = self.shape(request.pipeline)
        return Prediction(self, request.pipeline, spans_of(request, shape), _peak_bytes(request, shape))

    def shape(self, pipeline: str) -> ModelShape:
        """Of a pipeline's networks. Raises `UnknownName`."""
        if pipeline not in self.shapes:
            raise UnknownName("pipeline", pipeline, self.shapes)
        return self.shapes[pipeline]

    def seconds(self, pipeline: str, stage: str, work: Work) -> float:
        """Of one unit, or of a batch whose joint work this is."""
        with self._lock:
            return self._fit(pipeline, stage).predict(work)

    def observe(self, pipeline: str, stage: str, works: Sequence[Work], seconds: float) -> None:
        """Learn that a batch of units, of which each job's work is given, took `seconds`."""
        with self._lock:
            self._fit(pipeline, stage).observe(joint_work(stage, works), seconds)

    def batch_seconds(self, key: BatchKey, unit_s: float, num_jobs: int) -> float:
        """Of `num_jobs` units of equal key, each of `unit_s` alone. Jobs denoised or decoded together share
        what their forwards cost beside their work; other stages take one job after another, and so does a
        decoder whose one clip fills the device."""
        alone_s = num_jobs * unit_s
        if num_jobs == 1 or key.alone is not None or num_jobs > self._most_together(key):
            return alone_s
        with self._lock:
            fit = self._fit(key.pipeline, key.stage)
            forward = self._forward(key)
            num_forwards = 1.0
            if key.stage == "denoise":
                num_forwards = min(2.0, max(1.0, unit_s / max(fit.predict(forward), 1e-9)))
            saved_s = min(num_forwards * forward.layers * fit.layer_s, MOST_SHARED * unit_s)
        return alone_s - (num_jobs - 1) * saved_s

    def version(self, pipeline: str, stage: str) -> int:
        """Grows when predictions of this stage change."""
        return self._fit(pipeline, stage).version

    def to_json(self) -> dict[str, Any]:
        """The device and everything learned about it."""
        with self._lock:
            learned = {f"{pipeline}/{stage}": fit.to_json() for (pipeline, stage), fit in self._fits.items()}
        return {"device": self.rates.device, "learned": learned}

    def load(self, content: Mapping[str, Any]) -> None:
        """Learn what `to_json` of a model of the same device holds. Raises `ConfigError` for another."""
        if content["device"] != self.rates.device:
            raise ConfigError(f"rates of {content['device']!r} do not hold for {self.rates.device!r}")
        with self._lock:
            for name, rows in content["learned"].items():
                pipeline, stage = name.split("/")
                self._fit(pipeline, stage).load(rows)

    def _fit(self, pipeline: str, stage: str) -> StageFit:
        fit = self._fits.get((pipeline, stage))
        if fit is None:
            fit = self._fits[pipeline, stage] = StageFit(stage, self.rates)
        return fit

    def _most_together(self, key: BatchKey) -> float:
        """Jobs that one forward takes."""
        if key.stage not in SHARED_STAGES or key.latent_shape is None:
            return 1
        if key.stage == "denoise":
            return math.inf
        return most_decoded_together(self.shape(key.pipeline), *key.latent_shape[2:])

    def _forward(self, key: BatchKey) -> Work:
        """One forward of a job of this key."""
        work = self._forwards.get(key)
        if work is None:
            assert key.latent_shape is not None
            shape = self.shape(key.pipeline)
            if key.stage == "denoise":
                volume = math.prod(shape.transformer.patch_size)
                work = forward_work(shape, math.prod(key.latent_shape[1:]) // volume)
            else:
                rows, columns = key.latent_shape[2:]
                work = decode_work(
                    shape.vae, rows, columns, is_first=key.is_start, value_bytes=shape.value_bytes
                ).work
            self._forwards[key] = work
        return work


class Prediction:
    """Seconds and memory of one request alone. It follows its cost model: what that learns shows here.

    Attributes:
        peak_bytes: of device memory with nothing beside the request, weights included.
    """

    def __init__(self, cost: CostModel, pipeline: str, spans: Spans, peak_bytes: int) -> None:
        self._cost, self._pipeline, self._spans = cost, pipeline, spans
        self._known: dict[str, tuple[int, list[float]]] = {}
        self.peak_bytes = peak_bytes

    @property
    def stages(self) -> dict[str, StagePrediction]:
        """By name, those of the host included."""
        return {name: self._stage(name, spans) for name, spans in self._spans.items()}

    @property
    def total_s(self) -> float:
        """Device seconds of the whole request."""
        return self.remaining_s({})

    def unit_s(self, stage: str, units_done: int) -> float:
        """Seconds of the unit that follows `units_done`; 0 behind the last."""
        for span, seconds in zip(self._spans[stage], self._seconds(stage), strict=True):
            units_done -= span.count
            if units_done < 0:
                return seconds
        return 0.0

    def unit_work(self, stage: str, units_done: int) -> Work:
        """Work of the unit that follows `units_done`; none behind the last."""
        for span in self._spans[stage]:
            units_done -= span.count
            if units_done < 0:
                return span.work
        return Work()

    def remaining_s(self, units_done: Mapping[str, int]) -> float:
        """Device seconds of all units but those done, by stage."""
        return sum(
            self._left_s(stage, units_done.get(stage, 0)) for stage in self._spans if stage not in HOST_STAGES
        )

    def _left_s(self, stage: str, units_done: int) -> float:
        left_s = 0.0
        for span, seconds in zip(self._spans[stage], self._seconds(stage), strict=True):
            left_s += max(0, span.count - units_done) * seconds
            units_done = max(0, units_done - span.count)
        return left_s

    def _stage(self, name: str, spans: tuple[Span, ...]) -> StagePrediction:
        units = sum(span.count for span in spans)
        first_s = self.unit_s(name, 0)
        rest_s = self._left_s(name, 0) - first_s
        return StagePrediction(units=units, first_unit_s=first_s, unit_s=rest_s / max(1, units - 1))

    def _seconds(self, stage: str) -> list[float]:
        """Of a unit of each span."""
        version = self._cost.version(self._pipeline, stage)
        known = self._known.get(stage)
        if known is None or known[0] != version:
            spans = self._spans[stage]
            known = (version, [self._cost.seconds(self._pipeline, stage, span.work) for span in spans])
            self._known[stage] = known
        return known[1]


def _peak_bytes(request: GenerateRequest, shape: ModelShape) -> int:
    return job_memory(request, shape).peak_bytes
