"""What a worker expects of its device: seconds from the cost model, memory from what is free."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from rushes.engine.announcements import Announcement
from rushes.engine.cost import CostModel, Prediction
from rushes.engine.degrade import Limits, degrade, what_would_fit
from rushes.engine.memory import DeviceMemory, island_bytes
from rushes.engine.peaks import NoMeter, PeakMeter, PeakWatch
from rushes.engine.rates import rates_for
from rushes.engine.run import Run
from rushes.engine.shapes import UMT5_XXL, ModelShape, TextShape
from rushes.engine.work import matrix_weights
from rushes.errors import OutOfMemory
from rushes.models.configs import WanConfig
from rushes.models.device_memory import free_device_bytes
from rushes.models.mini_lm import MiniLM
from rushes.models.text import TextEncoder, UMT5TextEncoder
from rushes.pipelines.base import record_unit
from rushes.pipelines.device import host_memory, streamed_note
from rushes.pipelines.model import Model
from rushes.pipelines.rules import resolve
from rushes.stages.base import BatchKey, Given
from rushes.types import GenerateRequest

RESERVE_BYTES = 2 * 10**9
"""Of a device's memory, what is always kept free."""

CLEARLY_LESS = 0.8
"""Of the predicted memory of a request that ran out of it, what the next try may need."""


class CostPlanner:
    """A worker's `Planner`: forecasts, room on the device, and learning from what units took.

    Args:
        memory: of the device, its budget taken when the weights were loaded.
        meter: what the device held; the memory model learns from it.
    """

    def __init__(
        self, cost: CostModel, memory: DeviceMemory, model: Model, meter: PeakMeter | None = None
    ) -> None:
        self.cost, self.memory = cost, memory
        self._model = model
        self._peaks = PeakWatch(memory, meter or NoMeter())

    def check(self, request: GenerateRequest) -> None:
        """See `Planner.check`."""
        if self.memory.fits(request):
            return
        needed, usable = self.memory.needed_bytes([request]), self.memory.usable_bytes
        would_fit = what_would_fit(request, self._model.rules, self.memory.fits)
        raise OutOfMemory(
            f"needs {needed / 1e9:.4g} GB on {self._model.device}, {usable / 1e9:.4g} may be used;"
            f" would fit: {would_fit}"
        )

    def forecast(self, request: GenerateRequest) -> Prediction:
        """See `Planner.forecast`."""
        return self.cost.predict(request)

    def fits(self, request: GenerateRequest, beside: Sequence[GenerateRequest]) -> bool:
        """See `Planner.fits`."""
        return self.memory.fits(request, beside)

    @property
    def most_bytes(self) -> int:
        """See `Planner.most_bytes`."""
        return self.memory.usable_bytes

    def needed_bytes(self, request: GenerateRequest) -> int:
        """See `Sizes.needed_bytes`."""
        return self.memory.needed_bytes([request])

    def smaller(
        self, asked: GenerateRequest, ran_out: GenerateRequest | None = None
    ) -> GenerateRequest | None:
        """See `Sizes.smaller`."""
        most = self.memory.usable_bytes
        if ran_out is not None:
            weights = self.memory.weights_bytes
            most = min(most, weights + int(CLEARLY_LESS * (self.needed_bytes(ran_out) - weights)))
        return degrade(asked, self._model.rules, lambda request: self.needed_bytes(request) <= most, Limits())

    def observe(self, runs: Sequence[Run], key: BatchKey, seconds: float, begun: Sequence[Run]) -> None:
        """See `Observer`. Called when the units are counted already."""
        self._peaks.unit(
            key.stage,
            {run.id: run.job.request for run in begun},
            is_last=any(run.job.num_decoded == run.job.num_latent_frames for run in runs),
        )
        if key.stage == "denoise" and any(run.job.request.sampling.step_cache > 0 for run in runs):
            return  # a step that ran no forward says nothing of what forwards take
        works = [run.forecast.unit_work(key.stage, run.units(key.stage) - 1) for run in runs]
        self.cost.observe(key.pipeline, key.stage, works, seconds)

    def announcement(self, owner: str) -> Announcement:
        """What this worker tells those who submit."""
        pipeline = self._model.rules.name
        return Announcement(
            owner=owner,
            at=time.time(),
            pipeline=pipeline,
            shape=self.cost.shape(pipeline),
            rates=self.cost.to_json(),
            budget_bytes=self.memory.budget_bytes,
            reserve_bytes=self.memory.reserve_bytes,
            identity=self._model.identity,
            loras=tuple(self._model.parts.loras),
        )

    def batch_seconds(self, key: BatchKey, unit_s: float, num_jobs: int) -> float:
        """See `Scheduler`."""
        return self.cost.batch_seconds(key, unit_s, num_jobs)


def planner_for(
    model: Model,
    *,
    max_batch: int = 8,
    reserve_bytes: int = RESERVE_BYTES,
    meter: PeakMeter | None = None,
) -> CostPlanner:
    """For a model whose weights are loaded: the rest of the device is its budget, but for the reserve.

    Where the model's own clip does not fit beside all weights, the text encoder leaves the device
    (`rushes.models.streamed`), and a note of the model says so.
    """
    model.warm_up(waits_for_low=False)
    planner = _planner(model, max_batch, reserve_bytes, meter)
    encoder = leaving_encoder(model, planner.memory)
    if encoder is None:
        return planner
    text_bytes = sum(parameter.nbytes for parameter in encoder.model.parameters())
    encoder.stream(model.device)
    model.notes = (*model.notes, streamed_note(text_bytes))
    return _planner(model, max_batch, reserve_bytes, meter)


def leaving_encoder(model: Model, memory: DeviceMemory) -> UMT5TextEncoder | None:
    """The text encoder, where the model's own clip has no room on a GPU and its leaving would make some."""
    encoder = model.parts.text_encoder()
    if model.device.type != "cuda" or not isinstance(encoder, UMT5TextEncoder) or encoder.is_streamed:
        return None
    return None if memory.fits(resolve(model.rules, "the model's own clip", seed=0)) else encoder


def _planner(model: Model, max_batch: int, reserve_bytes: int, meter: PeakMeter | None) -> CostPlanner:
    shapes = {model.rules.name: shape_of(model)}
    cost = CostModel(rates_for(device_name(model.device)), shapes)
    memory = DeviceMemory(
        shapes,
        0,
        reserve_bytes=reserve_bytes,
        overlaps=model.device.type == "cuda",
        max_batch=max_batch,
    )
    memory.budget_bytes = memory.weights_bytes + free_bytes(model.device)
    return CostPlanner(cost, memory, model, meter)


def device_name(device: torch.device) -> str:
    """As rates are known by."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def shape_of(model: Model) -> ModelShape:
    """The networks of a loaded model as data."""
    parts = model.parts
    experts, encoder = parts.experts(), parts.text_encoder()
    network = experts.select(1000.0)
    return ModelShape(
        transformer=parts.transformer_config,
        vae=parts.vae_config,
        text=text_shape(encoder),
        vae_parameters=sum(parameter.numel() for parameter in parts.vae().parameters()),
        boundary=model.boundary,
        weight_bytes=weight_bytes(network, parts.transformer_config),
        value_bytes=network.dtype.itemsize,
        is_swapped=model.boundary is not None and experts.num_resident == 1,
        is_text_streamed=isinstance(encoder, UMT5TextEncoder) and encoder.is_streamed,
        # Of two cores, one clip's decode fills both: four clips of the toy together took 0.92 to 0.99 of the
        # time of four in a row, eight up to 1.16.
        decodes_batches=model.device.type != "cpu" and parts.vae().takes_batches,
    )


def weight_bytes(network: torch.nn.Module, config: WanConfig) -> float:
    """Of one weight of the matrices of a loaded network: all that it holds but the float32 islands, so that
    low precision counts as it lies in memory, scales included. 0 where a back-end holds them elsewhere."""
    held = sum(tensor.nbytes for tensors in (network.parameters(), network.buffers()) for tensor in tensors)
    return max(0, held - island_bytes(config)) / matrix_weights(config)


def text_shape(encoder: TextEncoder) -> TextShape:
    """Of a loaded text encoder; UMT5-XXL's for one that is known no better."""
    model = getattr(encoder, "model", None)
    if not isinstance(model, torch.nn.Module):
        return UMT5_XXL
    config = cast(Any, model.config)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if isinstance(model, MiniLM):
        return TextShape(
            num_layers=config.num_layers,
            dim=config.dim,
            attention_dim=config.dim,
            num_heads=config.num_heads,
            ffn_dim=config.ffn_dim,
            ffn_matrices=2,
            text_len=config.text_len,
            num_parameters=num_parameters,
        )
    return TextShape(
        num_layers=config.num_layers,
        dim=config.d_model,
        attention_dim=config.num_heads * config.d_kv,
        num_heads=config.num_heads,
        ffn_dim=config.d_ff,
        ffn_matrices=3,
        text_len=UMT5_XXL.text_len,
        num_parameters=num_parameters,
    )


def calibrate(planner: CostPlanner, model: Model) -> None:
    """Learn from one short clip of two latent frames, so that the first promise is no guess."""
    rules = model.rules
    num_frames = rules.temporal_stride + 1
    preset = replace(rules.preset(), positions=None, timesteps=None, lora=None)
    plain = replace(rules, presets={rules.default_preset: preset})
    request = resolve(plain, "calibration", num_frames=num_frames, num_inference_steps=2, seed=0)
    model.warm_up([request], waits_for_low=False)  # or the compiler's time would be taken for the device's
    job = model.pipeline.job(request, Given())
    while stage := model.pipeline.current(job):
        stage.prepare(job)
        key, done = stage.key(job), job.timings.get(stage.name)
        work = planner.forecast(request).unit_work(stage.name, done.units if done else 0)
        model.pipeline.synchronize()
        begin = time.perf_counter()
        stage.run([job])
        model.pipeline.synchronize()
        seconds = time.perf_counter() - begin
        record_unit(job, stage, seconds)
        planner.cost.observe(key.pipeline, key.stage, [work], seconds)


def free_bytes(device: torch.device, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory that this process can still take: of the device with what its allocator keeps unused, or of the
    host, within the limit of a container."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free_device_bytes(device) + unused
    available = host_memory()
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else ():
        if line.startswith("MemAvailable:"):
            available = min(available, 1024 * int(line.split()[1]))
    return available
