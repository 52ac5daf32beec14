"""Predicted device memory: weights, what a job holds between two units, and what a unit needs beside that.

Counted from the code as it runs in eager mode, in bytes of live tensors; a run on an H200 (A14B at 480p,
nothing guided; benchmarks/results/wan_h200_generation.json) peaked within 0.1 % of it. What else the process
holds on the device (CUDA's context, libraries' workspaces, unused blocks of the allocator) is the caller's to
leave out of the budget.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rushes.engine.shapes import ModelShape
from rushes.engine.units import LatentGrid
from rushes.engine.vae_work import decode_work, most_decoded_together
from rushes.engine.work import FLOAT32, matrix_weights
from rushes.models.configs import WanConfig
from rushes.types import GenerateRequest

LATENT_COPIES = 10
"""Float32 copies of a clip's latents that a job holds at most: one, four of a solver's history, five of a
step cache."""

FIRMER = 0.2
"""How fast an observed peak below the prediction lowers the next; one above it counts in full at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMemory:
    """Bytes of one job.

    Attributes:
        weights: of its pipeline's networks.
        shared: what all jobs of its pipeline hold together: keys and values of the negative prompt, pinned
            for jobs without guidance too.
        held: most that it keeps between two units, by stage.
        working: most that a unit needs beside what is held, by stage.
    """

    weights: int
    shared: int
    held: Mapping[str, int]
    working: Mapping[str, int]

    @property
    def peak_bytes(self) -> int:
        """With nothing beside it."""
        return self.weights + self.shared + self.most_alone

    @property
    def most_alone(self) -> int:
        """Held and working, in the stage that needs most."""
        return max(self.held[stage] + self.working[stage] for stage in self.held)

    @property
    def most_held(self) -> int:
        """Between two units, whatever the stage."""
        return max(self.held.values())


def job_memory(request: GenerateRequest, shape: ModelShape) -> JobMemory:
    """Of a request alone on the device."""
    sampling = request.sampling
    guidance = (sampling.guidance_high, sampling.guidance_low)[: shape.num_experts]
    num_guided = sum(scale != 1.0 for scale in guidance)
    grid = LatentGrid.of(shape, request.video)
    return _job_memory(shape, grid, num_guided, request.mode == "causal")


@lru_cache(maxsize=512)
def _job_memory(shape: ModelShape, grid: LatentGrid, num_guided: int, is_causal: bool) -> JobMemory:
    context = context_bytes(shape)
    latents = FLOAT32 * shape.vae.z_dim * grid.frames * grid.rows * grid.columns
    decode = decode_work(shape.vae, grid.rows, grid.columns, is_first=False, value_bytes=shape.value_bytes)
    state = decode.state_values * shape.value_bytes
    pixels = shape.vae.temporal_stride * grid.rows * grid.columns * shape.vae.spatial_stride**2
    arriving = 3 * pixels
    video = 3 * pixels * (FLOAT32 + shape.value_bytes + 1)
    cached = _cache_bytes(shape, grid) * (2 if num_guided else 1) if is_causal else 0
    tokens = grid.frame_tokens if is_causal else grid.tokens
    joined = 2 * cached // shape.transformer.num_layers
    text = _text_bytes(shape)
    # In the causal mode decoding and denoising take turns.
    both = state if is_causal else 0
    return JobMemory(
        weights=weights_bytes(shape),
        shared=shape.num_experts * context,
        held={
            "text_encode": 0,
            "denoise": context + LATENT_COPIES * latents + cached + both,
            "vae_decode": latents + state + arriving + (context + cached if is_causal else 0),
        },
        working={
            "text_encode": text,
            "denoise": activation_bytes(shape, tokens) + joined,
            "vae_decode": decode.working_values * shape.value_bytes + video,
        },
    )


def activation_bytes(shape: ModelShape, tokens: int) -> int:
    """Most bytes of a forward's live activations, float32 islands included.

    A block peaks in one of two places. In self-attention: 6 float32 tensors and 4 others of the model's
    width. In the FFN: 4 float32 ones, and the hidden units before and after the activation. Beside either
    lie the RoPE tables. Compiled blocks hold less. Measured by following the lifetime of every tensor of
    `rushes.models.wan.Wan`.
    """
    config, b = shape.transformer, shape.value_bytes
    attention = config.dim * (6 * FLOAT32 + 4 * b)
    ffn = config.dim * 4 * FLOAT32 + _hidden_bytes(config, b)
    return tokens * (max(attention, ffn) + 2 * FLOAT32 * config.attention_head_dim)


def _hidden_bytes(config: WanConfig, value_bytes: int) -> int:
    """Of one token in the FFN; routed experts have copies of their inputs and outputs."""
    dense = 2 * value_bytes * config.ffn_dim
    experts = config.experts
    if experts is None:
        return dense
    routed = experts.top_k * (2 * config.dim + 2 * experts.expert_dim) + 2 * experts.shared_dim
    return max(dense * (config.first_expert_layer > 0), value_bytes * routed)


def context_bytes(shape: ModelShape) -> int:
    """Keys and values of one prompt for one noise expert, and its text states."""
    config = shape.transformer
    keys = 2 * config.num_layers * config.text_len * config.dim
    return shape.value_bytes * (keys + config.text_len * config.text_dim)


def _cache_bytes(shape: ModelShape, grid: LatentGrid) -> int:
    """Keys and values of all latent frames of a causal clip, one branch."""
    return 2 * shape.transformer.num_layers * grid.tokens * shape.transformer.dim * shape.value_bytes


def _text_bytes(shape: ModelShape) -> int:
    """Activations of the text encoder, whose attention scores are float32; where it is streamed, the block
    that runs."""
    text = shape.text
    values = text.text_len * (6 * text.dim + text.ffn_matrices * text.ffn_dim)
    if shape.is_text_streamed:
        values += 4 * text.dim * text.attention_dim + text.ffn_matrices * text.dim * text.ffn_dim
    scores = 3 * FLOAT32 * text.num_heads * text.text_len**2
    return shape.value_bytes * values + scores


def weights_bytes(shape: ModelShape) -> int:
    """All networks of a pipeline. A weight of the transformer's matrices takes `weight_bytes`, one of its
    float32 islands 4, one of the VAE or the text encoder `value_bytes`."""
    expert = matrix_weights(shape.transformer) * shape.weight_bytes + island_bytes(shape.transformer)
    experts = 1 if shape.is_swapped else shape.num_experts
    text = 0 if shape.is_text_streamed else shape.text.num_parameters
    others = (shape.vae_parameters + text) * shape.value_bytes
    return round(experts * expert) + others


def island_bytes(config: WanConfig) -> int:
    """Of the parts of a network that stay float32."""
    return FLOAT32 * _islands(config)


def _islands(config: WanConfig) -> int:
    """Values that stay float32: `rushes.models.wan_checkpoint.FLOAT32_PARTS`."""
    d, volume = config.dim, config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
    ends = (config.in_channels * volume + 1) * d + (d + 1) * config.out_channels * volume + 2 * d
    time = (config.freq_dim + 1) * d + (d + 1) * d + (d + 1) * 6 * d
    pooled = (config.pooled_dim + 1) * d + (d + 1) * d if config.pooled_dim else 0
    routers = 0
    if config.experts is not None:
        routers = (config.num_layers - config.first_expert_layer) * config.experts.num_experts * (d + 1)
    return ends + time + pooled + routers + config.num_layers * 12 * d


class DeviceMemory:
    """What fits on one device. Methods may be called from any thread.

    Args:
        shapes: of the models whose weights are on it, by pipeline.
        budget_bytes: memory of the device that the engine may use.
        reserve_bytes: of these, what is always kept free.
        overlaps: units of different stages run side by side.
        max_batch: jobs that may share a forward.
    """

    def __init__(
        self,
        shapes: Mapping[str, ModelShape],
        budget_bytes: int,
        *,
        reserve_bytes: int = 2 * 10**9,
        overlaps: bool = True,
        max_batch: int = 1,
    ) -> None:
        self.shapes = dict(shapes)
        self.budget_bytes, self.reserve_bytes = budget_bytes, reserve_bytes
        self._overlaps, self._max_batch = overlaps, max_batch
        self._factors: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def usable_bytes(self) -> int:
        """The budget without the reserve."""
        return self.budget_bytes - self.reserve_bytes

    @property
    def weights_bytes(self) -> int:
        """Of all models."""
        return sum(weights_bytes(shape) for shape in self.shapes.values())

    def needed_bytes(self, requests: Sequence[GenerateRequest]) -> int:
        """At the worst moment of these requests, begun and not finished, beside all weights."""
        jobs = [job_memory(request, self.shapes[request.pipeline]) for request in requests]
        shared: dict[str, int] = {}
        for request, job in zip(requests, jobs, strict=True):
            shared[request.pipeline] = max(shared.get(request.pipeline, 0), job.shared)
        factor = max((self._factor(request.pipeline) for request in requests), default=1.0)
        if len(jobs) == 1:
            own = jobs[0].most_alone
        else:
            own = sum(job.most_held for job in jobs) + self._working_bytes(requests, jobs)
        return self.weights_bytes + int(factor * (sum(shared.values()) + own))

    def fits(self, request: GenerateRequest, beside: Sequence[GenerateRequest] = ()) -> bool:
        """Whether a request can begin beside those that have."""
        return self.needed_bytes([request, *beside]) <= self.usable_bytes

    def observe(self, requests: Sequence[GenerateRequest], peak_bytes: int) -> None:
        """While these ran, so much was allocated at most, weights included: from now on that corrects the
        part beside the weights. A peak above the prediction counts at once, one below it by `FIRMER`."""
        beside = peak_bytes - self.weights_bytes
        predicted = self.needed_bytes(requests) - self.weights_bytes
        if beside <= 0 or predicted <= 0:
            return
        for pipeline in {request.pipeline for request in requests}:
            ratio = beside / predicted
            weight = 1.0 if ratio > 1 else FIRMER
            with self._lock:
                factor = self._factors.get(pipeline, 1.0) * (1 + weight * (ratio - 1))
                self._factors[pipeline] = min(4.0, max(0.5, factor))

    def _working_bytes(self, requests: Sequence[GenerateRequest], jobs: Sequence[JobMemory]) -> int:
        """Of the units that may run at one moment: one of every stage, and of no more stages than jobs."""
        by_stage: Counter[str] = Counter()
        for job in jobs:
            for stage, working in job.working.items():
                by_stage[stage] = max(by_stage[stage], working)
        alike = Counter((request.pipeline, request.video) for request in requests)
        same = Counter((request.pipeline, request.video, request.mode) for request in requests)
        for request, job in zip(requests, jobs, strict=True):
            shape = self.shapes[request.pipeline]
            size = min(self._max_batch, same[request.pipeline, request.video, request.mode])
            if request.mode == "full" and size > 1:
                joined = size * (job.working["denoise"] + context_bytes(shape))
                by_stage["denoise"] = max(by_stage["denoise"], joined)
            decoded = min(self._most_decoded_together(request), alike[request.pipeline, request.video])
            if decoded > 1:
                # Beside what one decode takes for each, a stack of the states that the jobs hold.
                joined = decoded * (job.working["vae_decode"] + job.held["vae_decode"])
                by_stage["vae_decode"] = max(by_stage["vae_decode"], joined)
        num_stages = len(jobs) if self._overlaps else 1
        return sum(sorted(by_stage.values(), reverse=True)[:num_stages])

    def _most_decoded_together(self, request: GenerateRequest) -> int:
        """Jobs of this size whose latents may be decoded in one forward."""
        shape = self.shapes[request.pipeline]
        grid = LatentGrid.of(shape, request.video)
        return min(self._max_batch, most_decoded_together(shape, grid.rows, grid.columns))

    def _factor(self, pipeline: str) -> float:
        return self._factors.get(pipeline, 1.0)
