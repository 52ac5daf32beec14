"""diffusers' WanPipeline as a contender."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
)

from rushes.errors import InvalidRequest
from rushes.types import Done, Event, Frames, GenerateRequest, Json, Timing

if TYPE_CHECKING:
    from rushes.profiling.bench.base import OnLatents, Place

FRAMES_AT_A_TIME = 4  # that the writer is given, as many as our decoder makes

_FLOW: Mapping[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SCHEDULERS: Mapping[str, Callable[[float], Any]] = {
    "unipc": lambda shift: UniPCMultistepScheduler(**_FLOW, flow_shift=shift),
    "dpmpp-2m": lambda shift: DPMSolverMultistepScheduler(**_FLOW, flow_shift=shift),
    "euler": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
}


class DiffusersPipeline:
    """A `Contender`: WanPipeline with every part resident, in the dtype that Rushes is measured in (the parts
    that diffusers keeps in float32 stay so).

    Attributes:
        pipe: the pipeline, for whoever changes it before it runs.
        waits: whether it waits for the device at the borders of its stages, whose times `Done` tells. The
            profiler takes its own times, and would be told of waits that diffusers does not have.
    """

    waits = True

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self._device = torch.device(place.device)
        _be_quiet()
        self.pipe = WanPipeline.from_pretrained(place.folder, dtype=getattr(torch, place.dtype))
        self.pipe.to(self._device)
        self.pipe.set_progress_bar_config(disable=True)
        self._dtype = place.dtype

    @property
    def settings(self) -> Mapping[str, Json]:
        """See `Contender`."""
        version = diffusers.__version__
        return {"device": str(self._device), "dtype": self._dtype, "diffusers": version}

    @property
    def transformers(self) -> list[Any]:
        """The network, or the two noise experts."""
        both = (self.pipe.transformer, getattr(self.pipe, "transformer_2", None))
        return [transformer for transformer in both if transformer is not None]

    def events(
        self, request: GenerateRequest, *, preview_every: int = 0, on_latents: OnLatents | None = None
    ) -> Iterator[Event]:
        """See `Contender`. It has no previews, and all frames come at the end."""
        check_request(self.name, request)
        stages = _Stages(self._synchronize)
        with stages.timed(self.pipe, "encode_prompt"), stages.timed(self.pipe.vae, "decode"):
            video = self.pipe(**self._arguments(request, on_latents)).frames[0]
        frames = (np.asarray(video) * 255).round().astype(np.uint8)
        timings = stages.timings(request.sampling.num_inference_steps)
        for start in range(0, len(frames), FRAMES_AT_A_TIME):
            yield Frames(start=start, frames=frames[start : start + FRAMES_AT_A_TIME])
        yield Done(request=request, timings=timings)

    def _arguments(self, request: GenerateRequest, on_latents: OnLatents | None) -> dict[str, Any]:
        sampling, video = request.sampling, request.video
        self.pipe.scheduler = SCHEDULERS[sampling.solver](sampling.flow_shift)
        has_two = self.pipe.config.boundary_ratio is not None

        def tell(pipe: object, step: int, timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_latents is not None:
                on_latents(tensors["latents"])
            return {}

        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "width": video.width,
            "height": video.height,
            "num_frames": video.num_frames,
            "num_inference_steps": sampling.num_inference_steps,
            "guidance_scale": sampling.guidance_high,
            "guidance_scale_2": sampling.guidance_low if has_two else None,
            "generator": torch.Generator().manual_seed(sampling.seed),
            "output_type": "np",
            "callback_on_step_end": tell,
        }

    def _synchronize(self) -> None:
        if self.waits and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def check_request(name: str, request: GenerateRequest) -> None:
    """Raises `InvalidRequest` for what WanPipeline has no setting for. What our steps reuse is no part of it:
    whoever has a step cache brings their own."""
    sampling = request.sampling
    lacks = {
        f"the solver {sampling.solver!r} (it has {', '.join(SCHEDULERS)})": sampling.solver not in SCHEDULERS,
        "the causal mode": request.mode == "causal",
        "fixed timesteps": sampling.timesteps is not None,
        "a LoRA of the folder": sampling.lora is not None,
    }
    for what, is_asked in lacks.items():
        if is_asked:
            raise InvalidRequest(f"peer {name}", f"cannot run this request: it has no setting for {what}")


class _Stages:
    """Takes the time at the borders of two calls that the pipeline makes once each."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self._calls: dict[str, tuple[float, float]] = {}

    @contextmanager
    def timed(self, owner: Any, name: str) -> Iterator[None]:
        """Calls of `owner.name` are timed while the block lasts."""
        call = getattr(owner, name)

        def timed_call(*args: Any, **kwargs: Any) -> Any:
            begin = self._now()
            result = call(*args, **kwargs)
            self._calls[name] = begin, self._now()
            return result

        setattr(owner, name, timed_call)
        try:
            yield
        finally:
            delattr(owner, name)

    def timings(self, num_steps: int) -> tuple[Timing, ...]:
        """Of the clip that was just made, by the names of our stages."""
        text_begin, text_end = self._calls["encode_prompt"]
        decode_begin, decode_end = self._calls["decode"]
        return (
            Timing(stage="text_encode", seconds=text_end - text_begin, units=1),
            Timing(stage="denoise", seconds=decode_begin - text_end, units=num_steps),
            Timing(stage="vae_decode", seconds=decode_end - decode_begin, units=1),
            Timing(stage="postprocess", seconds=self._now() - decode_end, units=1),
        )

    def _now(self) -> float:
        self._synchronize()
        return perf_counter()


def _be_quiet() -> None:
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
