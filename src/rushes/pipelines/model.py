"""The library's front door: `load` a model, `generate` a clip or `stream` it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, cast, overload

import numpy as np
import torch

from rushes.config import TOY_FOLDER, read_settings
from rushes.errors import CheckpointError, EngineError, InvalidRequest, UnknownName
from rushes.models.checkpoint import Checkpoint, open_checkpoint
from rushes.models.text import PromptEmbeds
from rushes.passes.base import ClipShape
from rushes.passes.plan import Plan, read_plan
from rushes.pipelines.base import Parts, run
from rushes.pipelines.device import check_memory, choose_device, choose_dtype, residency_notes
from rushes.pipelines.parts import CheckpointParts
from rushes.pipelines.rules import RULES, PipelineRules, folder_fields, load_rules, plan_fields, resolve
from rushes.pipelines.wan import WanPipeline
from rushes.stages.base import Given, Job
from rushes.stages.preview import fit_latent_rgb, preview_frames
from rushes.trace import Span, begin, each_under, end, span, traced, under
from rushes.types import Done, Event, Frames, GenerateRequest, LatentVideo, Mode, Preview, Progress, Video

OUTPUTS = ("video", "latents")

OnProgress = Callable[[Progress], None]


class GenerateFields(TypedDict, total=False):
    """What `generate` and `stream` take beside the prompt; the model's rules decide what is left out.

    Attributes:
        preset: named sampling settings, over which the fields below win.
        guidance_high: scale of the high-noise expert, or of the only one. 1.0 turns guidance off.
        guidance_gate, step_cache: what steps reuse of earlier ones (see `SamplingParams`); 1 and 0 reuse
            nothing.
        latents: initial noise [1, C, T, H, W] instead of the seed's.
        prompt_embeds: text states [1, L, text_dim] instead of the prompt's, used at their own length; a
            `PromptEmbeds` for a model that reads a pooled vector too.
        mode: "causal" makes the clip latent frame by latent frame, where the model was trained for it.
    """

    negative_prompt: str
    preset: str | None
    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    flow_shift: float
    solver: str
    guidance_high: float
    guidance_low: float
    guidance_gate: float
    step_cache: float
    seed: int
    latents: torch.Tensor | None
    prompt_embeds: torch.Tensor | PromptEmbeds | None
    negative_prompt_embeds: torch.Tensor | PromptEmbeds | None
    mode: Mode | None


class Model:
    """A loaded model. One call at a time: the networks are shared, a job's state is not.

    Args:
        rules: what requests may ask for.
        parts: its networks.
        boundary: noise level of 0..1 at and above which the high-noise expert runs; None for one expert.
        defaults: fields that this checkpoint decides instead of its rules: `flow_shift` under every preset
            but those of fixed timesteps, `solver` under the default preset only. A call's own fields win.
        fields: what a call leaves out, by the plan that the model was loaded with; these win over `defaults`.
        notes: sentences about the checkpoint for the user.

    Example:
        >>> import rushes
        >>> model = rushes.load("toy")  # doctest: +SKIP
        >>> model.generate("a dog running in the park", seed=7).save("dog.mp4")  # doctest: +SKIP
    """

    def __init__(
        self,
        rules: PipelineRules,
        parts: Parts,
        *,
        boundary: float | None,
        device: torch.device,
        defaults: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.rules = rules
        self.device = device
        self.boundary = boundary
        self.notes = notes
        self.pipeline = WanPipeline(rules.name, parts, boundary=boundary, device=device)
        self.parts = parts
        self._defaults = dict(defaults or {})
        self._fields = dict(fields or {})
        self._latent_rgb: torch.Tensor | None = None

    @property
    def identity(self) -> str:
        """See `Parts.identity`."""
        return self.parts.identity

    @overload
    def generate(
        self,
        prompt: str = ...,
        *,
        output: Literal["video"] = ...,
        on_progress: OnProgress | None = ...,
        **fields: Unpack[GenerateFields],
    ) -> Video: ...

    @overload
    def generate(
        self,
        prompt: str = ...,
        *,
        output: Literal["latents"],
        on_progress: OnProgress | None = ...,
        **fields: Unpack[GenerateFields],
    ) -> LatentVideo: ...

    def generate(
        self,
        prompt: str = "",
        *,
        output: Literal["video", "latents"] = "video",
        on_progress: OnProgress | None = None,
        **fields: Unpack[GenerateFields],
    ) -> Video | LatentVideo:
        """Make a clip.

        Args:
            prompt: empty when `prompt_embeds` is given, and only then.
            output: "latents" stops before the VAE and returns normalised float32 latents [1, C, T, H, W].
            on_progress: called after every unit of every stage.
            fields: see `GenerateFields`.

        Raises:
            InvalidRequest: a field breaks a rule of the model, or a given tensor does not fit.
            CheckpointError: a part that this call needs is missing or damaged.
            EngineError: the device ran out of memory.
        """
        if output not in OUTPUTS:
            raise UnknownName("output", output, OUTPUTS)
        job = self.job(prompt, wants_video=output == "video", **fields)
        request = job.request
        if output == "latents":
            for _ in self._events(job, on_progress):
                pass
            latents = torch.cat(list(job.latents), dim=2).cpu()
            return LatentVideo(
                latents=latents,
                request=request,
                timings=tuple(job.timings.values()),
                forwards=job.forwards,
            )
        video = request.video
        frames = np.empty((video.num_frames, video.height, video.width, 3), np.uint8)
        for event in self._events(job, on_progress):
            if isinstance(event, Frames):
                frames[event.start : event.start + len(event.frames)] = event.frames
        return Video(
            frames=frames,
            fps=video.fps,
            request=request,
            timings=tuple(job.timings.values()),
            forwards=job.forwards,
        )

    def stream(
        self,
        prompt: str = "",
        *,
        preview_every: int = 0,
        on_progress: OnProgress | None = None,
        **fields: Unpack[GenerateFields],
    ) -> Generator[Event, None, None]:
        """Make a clip and see it come: `Frames` as they are decoded, then `Done`; before them, if asked for,
        `Preview`s of the clip being denoised.

        Closing the generator, at any point, frees what the clip held. The request is checked before the
        generator is returned; otherwise arguments and errors are those of `generate`.

        Args:
            preview_every: solver steps between two previews; 0 for none. The first loads the VAE, and each
                waits for the device. The causal mode has none: its frames themselves come early.
        """
        if preview_every < 0:
            raise InvalidRequest("preview_every", f"must be at least 0, got {preview_every}")
        job = self.job(prompt, wants_preview=preview_every > 0, **fields)
        return self._events(job, on_progress, preview_every)

    @traced("resolve")
    def job(
        self,
        prompt: str = "",
        *,
        wants_video: bool = True,
        wants_preview: bool = False,
        **fields: Unpack[GenerateFields],
    ) -> Job:
        """The job of a call, checked and not begun, for whoever runs the stages in batches of their own.

        Args and errors are those of `generate`.
        """
        flat = cast(dict[str, Any], dict(fields))
        given = Given(
            latents=flat.pop("latents", None),
            prompt_embeds=_embeds("prompt_embeds", flat.pop("prompt_embeds", None)),
            negative_prompt_embeds=_embeds(
                "negative_prompt_embeds", flat.pop("negative_prompt_embeds", None)
            ),
        )
        _check_not_twice("prompt", prompt, given.prompt_embeds)
        _check_not_twice("negative_prompt", flat.get("negative_prompt"), given.negative_prompt_embeds)
        given_fields = {
            **plan_fields(self._fields, flat.get("mode") or self._fields.get("mode")),
            **{name: value for name, value in flat.items() if value is not None},
        }
        flat = {**folder_fields(self.rules, self._defaults, given_fields.get("preset")), **given_fields}
        request = resolve(self.rules, prompt, has_prompt_embeds=given.prompt_embeds is not None, **flat)
        return self.pipeline.job(
            request, given, wants_video=wants_video, wants_preview=wants_preview and request.mode == "full"
        )

    def _events(
        self, job: Job, on_progress: OnProgress | None, preview_every: int = 0
    ) -> Generator[Event, None, None]:
        with _memory_errors(), _request_span(job) as request:
            for progress in each_under(request, run(self.pipeline, job)):
                if on_progress is not None:
                    on_progress(progress)
                if job.predicted is not None and progress.units % preview_every == 0:
                    with under(request):
                        preview = self.preview(job.predicted, progress)
                    yield preview
                job.predicted = None
                while job.frames:
                    yield job.frames.popleft()
        yield Done(request=job.request, timings=tuple(job.timings.values()), forwards=job.forwards)

    def warm_up(
        self,
        requests: Sequence[GenerateRequest] = (),
        *,
        batches: Sequence[int] = (1,),
        waits_for_low: bool = True,
    ) -> None:
        """Load every part now, not when a call first needs it, and compile what the model's plan compiles.

        Afterwards the model is ready: clips of these shapes read no weights and compile nothing.

        Args:
            requests: clips of the sizes that will be asked for; the model's default one when empty. Calls
                of another size, or with given embeddings of another length, may compile when they come.
            batches: clips in one forward.
            waits_for_low: on a GPU that holds both noise experts, False returns when a clip can begin; that
                waits for the low-noise one when it gets there, and fails if it cannot be read.

        Raises:
            CheckpointError: a part is missing or damaged.
        """
        expected = requests or (self.job("warm").request,)
        text_len = self.parts.transformer_config.text_len
        self.parts.expect(
            [
                ClipShape(
                    latent_shape=self.pipeline.latent_shape(request.video), text_len=text_len, batch=batch
                )
                for request in expected
                for batch in batches
            ]
        )
        experts = [self.parts.experts(lora) for lora in dict.fromkeys(one.sampling.lora for one in expected)]
        self.parts.vae()
        self.parts.text_encoder()
        for pair in experts if waits_for_low else ():
            pair.wait()

    def preview(self, latents: torch.Tensor, progress: Progress) -> Preview:
        """What predicted clean latents [1, C, T, H, W] look like. The first call loads the VAE; each waits
        for the device."""
        with span("preview", step=progress.units):
            if self._latent_rgb is None:
                self._latent_rgb = fit_latent_rgb(self.parts.vae())
            frames = preview_frames(latents, self._latent_rgb)
        return Preview(step=progress.units, num_steps=progress.total, frames=frames)


def _check_not_twice(field: str, text: object, embeds: PromptEmbeds | None) -> None:
    """An empty text beside embeddings says nothing, any other would be ignored."""
    if text and embeds is not None:
        raise InvalidRequest(f"{field}_embeds", f"give either {field} or {field}_embeds, not both")


def _embeds(field: str, value: object) -> PromptEmbeds | None:
    if value is None or isinstance(value, PromptEmbeds):
        return value
    if isinstance(value, torch.Tensor):
        return PromptEmbeds(states=value)
    raise InvalidRequest(
        field, f"is a {type(value).__name__}; give a tensor [1, L, D] or rushes.PromptEmbeds"
    )


@contextmanager
def _request_span(job: Job) -> Iterator[Span | None]:
    """Of a call of the library's, which is suspended between two of its events."""
    request, video = job.request, job.request.video
    begun = begin(
        "request",
        pipeline=request.pipeline,
        mode=request.mode,
        seed=request.sampling.seed,
        steps=request.sampling.num_inference_steps,
        width=video.width,
        height=video.height,
        frames=video.num_frames,
    )
    try:
        yield begun
    except BaseException as error:
        end(begun, error)
        raise
    end(begun)


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"the device ran out of memory; ask for a smaller or shorter clip ({error})"
        ) from error


def load(
    name_or_folder: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    plan: Plan | str | Path | None = None,
) -> Model:
    """Open a model. Its weights are read when a call first needs them; whether they fit is checked now.

    Args:
        name_or_folder: "toy" for the embedded model, or a checkpoint folder (diffusers' or Wan's layout).
        device: torch device; None takes `RUSHES_DEVICE`, else cuda where there is one, else the CPU.
        dtype: float32, bfloat16 or float16; None takes `RUSHES_DTYPE`, else bfloat16 on cuda and float32
            elsewhere. Norms, modulation and the time path stay float32 in any case.
        plan: passes that the model goes through, or the file of a plan; None for the plain model.

    Raises:
        CheckpointError: not a checkpoint, or of a model that is not supported.
        ConfigError: an unknown device or dtype, a plan that cannot be used, or a model that does not fit.
    """
    settings = read_settings()
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    checkpoint = _open(name_or_folder)
    place = choose_device(device if device is not None else settings.device)
    precision = choose_dtype(dtype if dtype is not None else settings.dtype, place)
    passes = plan if isinstance(plan, Plan) else Plan() if plan is None else read_plan(Path(plan))
    passes.check_model(checkpoint.pipeline)
    residency = check_memory(checkpoint, place, precision)
    return Model(
        load_rules(checkpoint.pipeline),
        CheckpointParts(checkpoint, place, precision, passes, streams_text="streamed" in residency),
        boundary=checkpoint.boundary.value,
        device=place,
        defaults=checkpoint.decided,
        fields=passes.fields,
        notes=(*checkpoint.notes, *residency_notes(checkpoint, precision, residency)),
    )


def rules_of(name_or_folder: str | Path) -> PipelineRules:
    """The rules of the model that `load` would open; reads no weights. Raises `CheckpointError`."""
    return load_rules(_open(name_or_folder).pipeline)


def _open(name_or_folder: str | Path) -> Checkpoint:
    if name_or_folder == "toy":
        return open_checkpoint(TOY_FOLDER)
    if str(name_or_folder) in RULES and not Path(name_or_folder).exists():
        raise CheckpointError(f"{name_or_folder}: give the folder of its checkpoint; only 'toy' has a name")
    return open_checkpoint(Path(name_or_folder))
