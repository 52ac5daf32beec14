"""What one H200 can hold and make, from the cost model: predicted, nothing here was measured.

The published figure to compare with is a batch of 4 and 30 queries per second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.scheduling_simulation import H200_BYTES

from rushes.config import TOY_FOLDER
from rushes.engine.cost import CostModel
from rushes.engine.memory import DeviceMemory
from rushes.engine.rates import H200, Rates
from rushes.engine.shapes import WAN22_T2V_A14B, WAN22_TI2V_5B, ModelShape, TextShape
from rushes.engine.units import spans_of
from rushes.engine.work import joint_work
from rushes.models import wan_checkpoint, wan_vae
from rushes.models.checkpoint import open_checkpoint
from rushes.models.headers import read_json
from rushes.pipelines.rules import load_rules, resolve
from rushes.types import GenerateRequest

PUBLISHED_BATCH, PUBLISHED_QPS = 4, 30.0

MINI_LM = TextShape(
    num_layers=6,
    dim=384,
    attention_dim=384,
    num_heads=12,
    ffn_dim=1536,
    ffn_matrices=2,
    text_len=64,
    num_parameters=16_177_152,
)
"""The toy's text encoder; see `rushes.models.mini_lm`."""


def toy_shape() -> ModelShape:
    """The embedded model as its folder tells."""
    parts = open_checkpoint(TOY_FOLDER).parts
    return ModelShape(
        transformer=wan_checkpoint.config_from_dict(
            read_json(TOY_FOLDER / "transformer" / "config.json"), "diffusers"
        ),
        vae=wan_vae.config_from_dict(read_json(TOY_FOLDER / "vae" / "config.json"), "diffusers"),
        text=MINI_LM,
        vae_parameters=parts["vae"].num_parameters,
    )


SHAPES = {"wan2.2-t2v-a14b": WAN22_T2V_A14B, "wan2.2-ti2v-5b": WAN22_TI2V_5B, "toy": toy_shape()}

FP8 = replace(H200, linear=1400e12)
"""facts/h200.md: `torch._scaled_mm` with row-wise scales, 1380-1500 TFLOP/s."""

CASES = (
    ("wan2.2-t2v-a14b", 832, 480, "quality"),
    ("wan2.2-t2v-a14b", 832, 480, "distilled-4"),
    ("wan2.2-t2v-a14b", 1280, 720, "distilled-4"),
    ("wan2.2-ti2v-5b", 1280, 704, "quality"),
    ("wan2.2-ti2v-5b", 1280, 704, "fastwan-3"),
    ("toy", 192, 128, "quality"),
    ("toy", 192, 128, "few-step-4"),
)

MOST = 4096
"""Largest batch that is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """One model, size and precision on one card.

    Attributes:
        largest_batch: jobs denoised in one forward that fit, 2 GB kept free.
        videos_per_s: of batches of 1, of `PUBLISHED_BATCH` (None where it does not fit) and of the largest.
    """

    pipeline: str
    size: str
    steps: int
    precision: str
    largest_batch: int
    videos_per_s: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """As a row of results."""
        return {name: getattr(self, name) for name in Capacity.__dataclass_fields__}


def capacities() -> Iterator[Capacity]:
    """Every case in bfloat16 and with fp8 weights."""
    for pipeline, width, height, preset in CASES:
        request = resolve(load_rules(pipeline), "x", preset=preset, width=width, height=height, seed=7)
        for precision, rates, weight_bytes in (("bf16", H200, 2.0), ("fp8", FP8, 1.0)):
            shape = replace(SHAPES[pipeline], weight_bytes=weight_bytes)
            yield _capacity(request, shape, precision, rates)


def _capacity(request: GenerateRequest, shape: ModelShape, precision: str, rates: Rates) -> Capacity:
    largest = largest_batch(request, shape)
    sizes = {"1": 1, str(PUBLISHED_BATCH): PUBLISHED_BATCH, "largest": largest}
    cost = CostModel(rates, {request.pipeline: shape})
    video = request.video
    return Capacity(
        pipeline=request.pipeline,
        size=f"{video.width}x{video.height}, {video.num_frames} frames",
        steps=request.sampling.num_inference_steps,
        precision=precision,
        largest_batch=largest,
        videos_per_s={
            name: videos_per_s(cost, request, size) if 0 < size <= largest else None
            for name, size in sizes.items()
        },
    )


def largest_batch(request: GenerateRequest, shape: ModelShape) -> int:
    """Jobs that fit together, all at their worst moment."""
    fitting = 0
    for size in (*range(1, 33), *(2**n for n in range(6, MOST.bit_length()))):
        memory = DeviceMemory({request.pipeline: shape}, H200_BYTES, max_batch=size, overlaps=False)
        if not memory.fits(request, [request] * (size - 1)):
            break
        fitting = size
    return fitting


def videos_per_s(cost: CostModel, request: GenerateRequest, size: int) -> float:
    """Of batches of `size` one after another, every stage alone on the device."""
    shape = cost.shape(request.pipeline)
    seconds = 0.0
    for stage, spans in spans_of(request, shape).items():
        if stage != "video_encode":
            for span in spans:
                work = joint_work(stage, [span.work] * size)
                seconds += span.count * cost.seconds(request.pipeline, stage, work)
    return size / seconds


def lines(rows: Sequence[Capacity]) -> Iterator[str]:
    """The table and what it says about the published figure."""
    yield "one H200 of 141 GB, 2 GB kept free; PREDICTED by the cost model, not measured"
    speeds = f"{'videos/s: 1':>12} {PUBLISHED_BATCH:9} {'largest':>9}"
    yield f"{'model':16} {'clip':24} {'steps':>5} {'':5} {'largest batch':>13} {speeds}"
    for row in rows:
        speeds = " ".join(
            f"{'-' if speed is None else format(speed, '.4g'):>{width}}"
            for speed, width in zip(row.videos_per_s.values(), (12, 9, 9), strict=True)
        )
        batch = f"{row.largest_batch}{'+' if row.largest_batch >= MOST else ''}"
        yield f"{row.pipeline:16} {row.size:24} {row.steps:5} {row.precision:5} {batch:>13} {speeds}"
    yield from _verdict(rows)


def _verdict(rows: Sequence[Capacity]) -> Iterator[str]:
    best: dict[str, float] = {}
    for row in rows:
        speed = max(speed or 0.0 for speed in row.videos_per_s.values())
        best[row.pipeline] = max(best.get(row.pipeline, 0.0), speed)
    for pipeline, speed in best.items():
        cards = PUBLISHED_QPS / speed
        can = "can" if cards <= 1 else f"cannot ({cards:.0f} cards)"
        yield f"{pipeline}: at best {speed:.3g} videos/s; {PUBLISHED_QPS:g} a second one card {can} serve"
