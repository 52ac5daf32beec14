"""The units that a request takes in each stage, and the work of each: counted, not measured. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

from rushes.engine.shapes import ModelShape
from rushes.engine.vae_work import decode_work
from rushes.engine.work import Work, context_work, forward_work, text_work
from rushes.sampling.guidance import is_high_noise
from rushes.sampling.schedules import unipc_schedule
from rushes.sampling.step_cache import MIN_STEPS
from rushes.stages.base import NoiseExpert
from rushes.types import GenerateRequest, SamplingParams, VideoSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Units of one stage in a row that ask the same of the device."""

    count: int
    work: Work


Spans = Mapping[str, tuple[Span, ...]]
"""By stage, in the order of a clip that is made whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentGrid:
    """A clip as the networks see it.

    Attributes:
        frames, rows, columns: of latent cells.
        frame_tokens: tokens of the transformer in one latent frame.
    """

    frames: int
    rows: int
    columns: int
    frame_tokens: int

    @property
    def tokens(self) -> int:
        """Of the whole clip."""
        return self.frames * self.frame_tokens

    @classmethod
    def of(cls, shape: ModelShape, video: VideoSpec) -> LatentGrid:
        """Of a clip of valid size."""
        vae, (_, patch_rows, patch_columns) = shape.vae, shape.transformer.patch_size
        rows, columns = video.height // vae.spatial_stride, video.width // vae.spatial_stride
        return cls(
            frames=(video.num_frames - 1) // vae.temporal_stride + 1,
            rows=rows,
            columns=columns,
            frame_tokens=(rows // patch_rows) * (columns // patch_columns),
        )


def spans_of(request: GenerateRequest, shape: ModelShape) -> Spans:
    """Every unit of a request. Steps that a step cache may save are counted, since that depends on the clip;
    what a guidance gate saves is not, nor are steps before the one at which the request's source stands."""
    sampling = replace(request.sampling, seed=0)
    first = 0 if request.source is None else request.source.step
    return _spans(shape, request.video, sampling, request.mode == "causal", first)


@lru_cache(maxsize=512)
def _spans(
    shape: ModelShape, video: VideoSpec, sampling: SamplingParams, is_causal: bool, first: int
) -> Spans:
    grid = LatentGrid.of(shape, video)
    denoise = (
        _causal_steps(shape, grid, sampling) if is_causal else _whole_steps(shape, grid, sampling, first)
    )
    pixels = video.width * video.height
    stride = shape.vae.temporal_stride
    return {
        "text_encode": (Span(count=1, work=text_work(shape)),),
        "denoise": tuple(Span(count=sum(1 for _ in equal), work=work) for work, equal in groupby(denoise)),
        "vae_decode": _first_and_rest(
            grid.frames, _decode(shape, grid, is_first=True), _decode(shape, grid, is_first=False)
        ),
        "video_encode": _first_and_rest(grid.frames, Work(pixels=pixels), Work(pixels=stride * pixels)),
    }


def _first_and_rest(count: int, first: Work, rest: Work) -> tuple[Span, ...]:
    spans = (Span(count=1, work=first), Span(count=count - 1, work=rest))
    return spans if count > 1 else spans[:1]


def _decode(shape: ModelShape, grid: LatentGrid, *, is_first: bool) -> Work:
    unit = decode_work(shape.vae, grid.rows, grid.columns, is_first=is_first, value_bytes=shape.value_bytes)
    return unit.work


def _whole_steps(shape: ModelShape, grid: LatentGrid, sampling: SamplingParams, first: int) -> Iterator[Work]:
    """The steps of a clip that is denoised as a whole, from the `first` on; an expert's first one makes the
    text's keys too."""
    forward, context = forward_work(shape, grid.tokens), context_work(shape)
    last: NoiseExpert | None = None
    for expert, branches in _branches(shape, sampling, first):
        yield forward * branches + (context if expert != last else Work())
        last = expert


def _causal_steps(shape: ModelShape, grid: LatentGrid, sampling: SamplingParams) -> Iterator[Work]:
    """Latent frame by latent frame, each attending to those before it; a frame's first step begins with the
    pass that writes the keys of the frame before."""
    num_steps, branches = sampling.num_inference_steps, 1 + (sampling.guidance_high != 1.0)
    for frame in range(grid.frames):
        forward = forward_work(shape, grid.frame_tokens, (frame + 1) * grid.frame_tokens) * branches
        for step in range(num_steps):
            is_start = frame == step == 0
            writes = step == 0 and frame > 0
            yield forward * (1 + writes) + (context_work(shape) if is_start else Work())


def _branches(shape: ModelShape, sampling: SamplingParams, first: int) -> Iterator[tuple[NoiseExpert, int]]:
    """The noise expert of every step from the `first` on, and its forwards: 2 where the unconditional one
    runs too.

    As `rushes.sampling.step_cache.plan_step` decides.
    """
    num_steps = sampling.num_inference_steps
    gate = sampling.guidance_gate if num_steps >= MIN_STEPS else 1.0
    last: NoiseExpert | None = None
    for step, expert in list(enumerate(_experts(shape, sampling)))[first:]:
        scale = sampling.guidance_high if expert == "high" else sampling.guidance_low
        is_open = step < gate * num_steps or expert != last
        yield expert, 1 + (scale != 1.0 and is_open)
        last = expert


def _experts(shape: ModelShape, sampling: SamplingParams) -> list[NoiseExpert]:
    """Who runs each step. Loading a solver would load torch, so all schedules are taken for UniPC's, from
    which they differ by less than a step."""
    if shape.boundary is None:
        return ["high"] * sampling.num_inference_steps
    timesteps = sampling.timesteps
    if timesteps is None:
        timesteps = unipc_schedule(sampling.num_inference_steps, sampling.flow_shift).timesteps
    return ["high" if is_high_noise(t, shape.boundary) else "low" for t in timesteps]
