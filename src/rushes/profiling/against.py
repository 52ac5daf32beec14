"""diffusers' WanPipeline as a subject of the profiler: the same clip, the same rows."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from rushes.errors import InvalidRequest
from rushes.pipelines.model import Model
from rushes.profiling.clip import Clip, PeakMemory
from rushes.profiling.device import device_for
from rushes.profiling.instrument import wrapped
from rushes.profiling.recorder import Recorder
from rushes.profiling.rows import expert_of
from rushes.profiling.stage_table import Factors
from rushes.sampling.guidance import is_high_noise
from rushes.sampling.solvers import schedule_for
from rushes.stages.video_encode import VideoWriter
from rushes.trace import Listener, Span, Value, listen, span
from rushes.types import Event, Frames, GenerateRequest

MAX_SHORT_STEPS = 12
"""Tried to have both noise experts in a short run; diffusers takes no timesteps of ours."""

SPREADING_SHIFT = 5.0
"""Of the flow; with it the second of two steps is below the boundaries of 0.85 to 0.9 that models have."""


class Contender(Protocol):
    """Runs a diffusers pipeline: `rushes.profiling.bench.diffusers_pipeline.DiffusersPipeline`."""

    pipe: Any

    def events(self, request: GenerateRequest) -> Iterator[Event]:
        """Make the clip. Raises `InvalidRequest` for what diffusers has no setting for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirScale:
    """`Factors` of a short run: steps of the whole clip for each one run, by noise expert."""

    steps: Mapping[str, float]

    def of(self, span: Span) -> float:
        """See `Factors`."""
        return self.steps.get(expert_of(span) or "", 1.0) if span.name in ("forward", "solver") else 1.0


@dataclass(slots=True, kw_only=True)
class Diffusers:
    """A `Subject`. A short run takes few steps but decodes the whole clip, as diffusers does it at once.

    Attributes:
        boundary: noise level of 0..1 at and above which the high-noise expert runs; None for one expert.
    """

    contender: Contender
    request: GenerateRequest
    device: torch.device
    model: str
    boundary: float | None = None
    label: str = "diffusers"
    _seen: dict[str, Any] = field(default_factory=dict)

    def warm_up(self) -> None:
        """See `Subject`; everything is loaded."""

    @contextmanager
    def spans(self) -> Iterator[None]:
        """See `Subject`."""
        pipe = self.contender.pipe
        with ExitStack() as stack:
            for wrapper in (*_text_spans(pipe), *self._step_spans(pipe), *self._decode_spans(pipe)):
                stack.enter_context(wrapper)
            yield

    def clip(self, *, is_short: bool, beside: Sequence[Listener] = ()) -> Clip:
        """See `Subject`."""
        device = device_for(self.device)
        recorder, peaks = Recorder(device=device), PeakMemory(device=device)
        request = self._short() if is_short else self.request
        self._seen.clear()
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rushes-profile-"))
            listeners: tuple[Listener, ...] = (recorder, peaks, *beside)
            for listener in listeners:
                stack.enter_context(listen(listener))
            device.synchronize()
            with span("request"):
                self._make(request, Path(folder) / "clip.mp4")
                device.synchronize()
        return Clip(
            times=recorder.times(),
            peaks=peaks.by_stage,
            request=self.request,
            num_latents=0,
            is_short=is_short,
        )

    def factors(self, clip: Clip) -> Factors:
        """See `Subject`."""
        done = Counter(
            str(time.span.attributes["expert"])
            for time in clip.times
            if time.span.name == "forward" and time.span.attributes.get("branch") == "conditional"
        )
        wanted = Counter(self._experts(self.request))
        return TheirScale(steps={expert: wanted[expert] / count for expert, count in done.items()})

    def _make(self, request: GenerateRequest, path: Path) -> None:
        frames = [event.frames for event in self.contender.events(request) if isinstance(event, Frames)]
        with VideoWriter(path, **asdict(request.video)) as writer:
            for each in frames:
                writer.write(each)

    def _experts(self, request: GenerateRequest) -> list[str]:
        timesteps = schedule_for(request.sampling).timesteps
        return ["high" if is_high_noise(t, self.boundary) else "low" for t in timesteps]

    def _short(self) -> GenerateRequest:
        """As few steps, two at least, as run every noise expert that the whole clip runs: a step takes as
        long at one timestep as at another, so another flow shift may spread them."""
        wanted = set(self._experts(self.request))
        for num_steps in range(2, MAX_SHORT_STEPS):
            for shift in (self.request.sampling.flow_shift, SPREADING_SHIFT):
                sampling = replace(self.request.sampling, num_inference_steps=num_steps, flow_shift=shift)
                short = replace(self.request, sampling=sampling)
                if set(self._experts(short)) == wanted:
                    return short
        return self.request

    def _step_spans(self, pipe: Any) -> Iterator[Any]:
        networks = [
            each for each in (pipe.transformer, getattr(pipe, "transformer_2", None)) if each is not None
        ]
        yield wrapped(type(networks[0]), "forward", "forward", self._about_forward)
        from rushes.profiling.bench.diffusers_pipeline import SCHEDULERS

        for scheduler in dict.fromkeys(type(make(1.0)) for make in SCHEDULERS.values()):
            yield wrapped(scheduler, "step", "solver", self._about_solver)

    def _decode_spans(self, pipe: Any) -> Iterator[Any]:
        yield wrapped(type(pipe.vae), "decode", "vae_decode")
        yield wrapped(type(pipe.vae.decoder), "forward", "vae_forward", self._about_decode)
        processor = type(pipe.video_processor)
        yield wrapped(processor, "postprocess_video", "postprocess", _of_decode)

    def _about_forward(self, network: Any, *args: Any, **kwargs: Any) -> Mapping[str, Value]:
        """The first text that a run shows its network is the prompt."""
        text = id(kwargs.get("encoder_hidden_states"))
        is_prompt = text == self._seen.setdefault("prompt", text)
        expert = "low" if network is getattr(self.contender.pipe, "transformer_2", None) else "high"
        self._seen["expert"] = expert
        return {
            "stage": "denoise",
            "expert": expert,
            "branch": "conditional" if is_prompt else "unconditional",
        }

    def _about_solver(self, *args: Any, **kwargs: Any) -> Mapping[str, Value]:
        return {"stage": "denoise", "expert": self._seen.get("expert", "high")}

    def _about_decode(self, *args: Any, **kwargs: Any) -> Mapping[str, Value]:
        is_first = not self._seen.get("has_decoded")
        self._seen["has_decoded"] = True
        return {"is_first": is_first}


def _text_spans(pipe: Any) -> Iterator[Any]:
    yield wrapped(type(pipe), "encode_prompt", "text_encode")
    yield wrapped(type(pipe.text_encoder), "forward", "encode_text")
    yield wrapped(type(pipe.tokenizer), "__call__", "tokenize")


def _of_decode(*args: Any, **kwargs: Any) -> Mapping[str, Value]:
    return {"stage": "vae_decode"}


def diffusers_subject(net: Model, name: str, folder: Path, request: GenerateRequest, dtype: str) -> Diffusers:
    """diffusers with the checkpoint of a model of ours, loaded beside it.

    Args:
        name: the model as the user named it.
        folder: its checkpoint.
        dtype: "bfloat16" and so on.

    Raises:
        InvalidRequest: diffusers cannot run it.
    """
    config = net.parts.transformer_config
    if config.experts is not None or config.pooled_dim:
        raise InvalidRequest("against", f"diffusers has no model with token experts, which {name} has")
    if not (folder / "model_index.json").is_file():
        raise InvalidRequest("against", f"{folder} is not in diffusers' layout: it has no model_index.json")
    from rushes.profiling.bench.base import Place
    from rushes.profiling.bench.diffusers_pipeline import DiffusersPipeline, check_request

    check_request("diffusers", request)
    place = Place(model=str(folder), device=str(net.device), dtype=dtype)
    contender = DiffusersPipeline("diffusers", place)
    contender.waits = False
    return Diffusers(
        contender=contender,
        request=request,
        device=net.device,
        model=net.rules.name,
        boundary=net.boundary,
    )
