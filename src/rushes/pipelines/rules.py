"""What each model accepts, as data, and `resolve`, which turns a call into a complete request. No torch."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, cast, get_args

from rushes.errors import InvalidRequest, UnknownName
from rushes.pipelines.fields import FIELDS, Field, Value, shown
from rushes.registry import Registry
from rushes.sampling.schedules import shift_timesteps
from rushes.sampling.solvers import SOLVERS
from rushes.types import GenerateRequest, Mode, SamplingParams, VideoSpec, fields_of

__all__ = [
    "FIELDS",
    "MAX_PROMPT_CHARACTERS",
    "MODES",
    "RULES",
    "Field",
    "PipelineRules",
    "Preset",
    "folder_fields",
    "load_rules",
    "resolve",
]

MAX_PROMPT_CHARACTERS = 20_000
"""Longest prompt accepted. Text encoders read 512 tokens or fewer, so nothing useful is refused."""

MODES: tuple[str, ...] = get_args(Mode)

RULES = Registry(
    "pipeline",
    {
        "toy": "rushes.pipelines.toy_rules:TOY",
        "wan2.2-t2v-a14b": "rushes.pipelines.wan_rules:WAN22_T2V_A14B",
        "wan2.2-ti2v-5b": "rushes.pipelines.wan_rules:WAN22_TI2V_5B",
        "wan2.1-t2v-1.3b": "rushes.pipelines.wan_rules:WAN21_T2V_1_3B",
        "wan2.1-t2v-14b": "rushes.pipelines.wan_rules:WAN21_T2V_14B",
    },
    group="rushes.rules",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A named way to sample.

    Attributes:
        title: one line for lists; says so when the preset needs distilled weights.
        positions: fixed timesteps listed before the shift, which `flow_shift` then moves; highest first.
        timesteps: fixed timesteps as the model sees them; `flow_shift` does not apply. At most one of the two
            is given, and its length is `num_inference_steps`.
        lora: file in the checkpoint's folder that the preset samples with; None for the weights as they are.
        guidance_gate, step_cache: what its steps use again of earlier ones; see `SamplingParams`.
    """

    title: str
    num_inference_steps: int
    solver: str
    flow_shift: float
    guidance_high: float
    guidance_low: float
    positions: tuple[float, ...] | None = None
    timesteps: tuple[float, ...] | None = None
    lora: str | None = None
    guidance_gate: float = 1.0
    step_cache: float = 0.0

    def fixed_timesteps(self, flow_shift: float) -> tuple[float, ...] | None:
        """The timesteps of a distilled preset as the model sees them, None where steps and shift decide."""
        if self.positions is not None:
            return shift_timesteps(self.positions, flow_shift)
        return self.timesteps


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRules:
    """What one model accepts and what it does by default.

    Attributes:
        models: published checkpoints that these rules serve.
        spatial_multiple: pixels per token each way (VAE stride x patch); sizes are multiples of it.
        temporal_stride: frames per latent frame after the first; frames are a multiple of it plus 1.
        rope_positions: length of the RoPE table, the bound of tokens along each axis.
        max_tokens: bound of tokens of a clip; attention work grows with its square.
        video: the default clip.
        sizes: official (width, height).
        presets: by name; `default_preset` names the one used when none is asked for.
        boundary: noise level of 0..1 at and above which the high-noise expert runs; None for one expert.
        negative_prompt: used when the caller gives none.
        supports_causal: trained to generate latent frame by latent frame too.
        has_small_vocabulary: trained with the words of the toy's captions alone (`rushes.pipelines.notes`).
        synonyms: file of words that its text encoder takes as equal (`rushes.reuse.synonym_files`).
        edit_preset: with which clips are edited: of few-step weights that come with the model; None edits
            them by their own settings (`rushes.server.edit_ways`).
        edit_strength: noise level at which such an edit takes a clip up.
    """

    name: str
    title: str
    models: tuple[str, ...]
    spatial_multiple: int
    temporal_stride: int = 4
    rope_positions: int = 1024
    max_tokens: int
    video: VideoSpec
    sizes: tuple[tuple[int, int], ...]
    presets: Mapping[str, Preset]
    default_preset: str = "quality"
    boundary: float | None = None
    negative_prompt: str = ""
    supports_causal: bool = False
    has_small_vocabulary: bool = False
    synonyms: Path | None = None
    edit_preset: str | None = None
    edit_strength: float = 0.98

    @property
    def is_one_expert(self) -> bool:
        """One network runs every noise level, and `guidance_low` is `guidance_high`."""
        return self.boundary is None

    @property
    def num_experts(self) -> int:
        """Noise experts: 1 or 2."""
        return 1 if self.is_one_expert else 2

    @property
    def fields(self) -> dict[str, Field]:
        """The fields this model accepts, with its own sizes and bounds; one expert has no `guidance_low`."""
        side = replace(
            FIELDS["width"],
            minimum=self.spatial_multiple,
            maximum=self.rope_positions * self.spatial_multiple,
            multiple=self.spatial_multiple,
        )
        narrowed = {
            "width": side,
            "height": replace(side, name="height", help=FIELDS["height"].help),
            "num_frames": replace(
                FIELDS["num_frames"],
                maximum=(self.rope_positions - 1) * self.temporal_stride + 1,
                multiple=self.temporal_stride,
                offset=1,
            ),
            "solver": replace(FIELDS["solver"], choices=SOLVERS.names()),
        }
        fields = {**FIELDS, **narrowed}
        if self.is_one_expert:
            del fields["guidance_low"]
        return fields

    def num_tokens(self, video: VideoSpec) -> int:
        """Tokens of a clip of valid size."""
        latent_frames = (video.num_frames - 1) // self.temporal_stride + 1
        return (
            latent_frames * (video.width // self.spatial_multiple) * (video.height // self.spatial_multiple)
        )

    def latent_grid(self, video: VideoSpec) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a clip of valid size; every model's patch is 2 x 2 latents."""
        stride = self.spatial_multiple // 2
        frames = (video.num_frames - 1) // self.temporal_stride + 1
        return frames, video.height // stride, video.width // stride

    def preset(self, name: str | None = None) -> Preset:
        """The preset of this name, the default one for None. Raises `UnknownName`."""
        name = self.default_preset if name is None else name
        if not isinstance(name, str):
            raise InvalidRequest("preset", f"must be one of {', '.join(self.presets)}, got {shown(name)}")
        if name not in self.presets:
            raise UnknownName("preset", name, self.presets)
        return self.presets[name]

    def defaults(self, preset: str | None = None) -> dict[str, Value | None]:
        """Default of every field under this preset; None for the seed, which is drawn for each request."""
        sources = {**fields_of(self.video), **fields_of(self.preset(preset)), "seed": None}
        return {name: sources[name] for name in self.fields}


def plan_fields(fields: Mapping[str, Any], mode: str | None) -> dict[str, Any]:
    """A plan's request defaults; a causal clip reuses nothing of earlier steps, whatever the plan would."""
    reuse = ("guidance_gate", "step_cache") if mode == "causal" else ()
    return {name: value for name, value in fields.items() if name not in reuse}


def folder_fields(rules: PipelineRules, decided: Mapping[str, Any], preset: str | None) -> Mapping[str, Any]:
    """What a checkpoint folder decides under this preset, of all that it says (`decided`): its `flow_shift`
    under every preset but those of fixed timesteps, its `solver` under the default preset only."""
    chosen = rules.preset(preset)
    if chosen.fixed_timesteps(chosen.flow_shift) is not None:
        return {}
    if chosen is rules.preset():
        return decided
    return {name: value for name, value in decided.items() if name != "solver"}


def load_rules(name: str) -> PipelineRules:
    """The rules of this pipeline. Raises `UnknownName`.

    Example:
        >>> from rushes.pipelines.rules import load_rules
        >>> load_rules("wan2.2-t2v-a14b").video.num_frames
        81
    """
    rules: PipelineRules = RULES.load(name)
    return rules


def resolve(
    rules: PipelineRules,
    prompt: str,
    *,
    preset: str | None = None,
    negative_prompt: str | None = None,
    mode: str | None = None,
    has_prompt_embeds: bool = False,
    **fields: object,
) -> GenerateRequest:
    """A complete, valid request from what a caller gave; the first rule broken is raised.

    Args:
        preset: name of one of `rules.presets`, the default one for None.
        negative_prompt: None takes the model's own; an empty string is none at all.
        mode: one of `MODES`, the first for None.
        has_prompt_embeds: the prompt's embeddings come with the request, so that the prompt may be empty.
        fields: any of `rules.fields`; a value of None counts as not given.

    Raises:
        InvalidRequest: with the field, its value, the rule and the nearest valid values. A misspelt field,
            mode, preset or solver raises its `UnknownName` with the nearest name.

    Example:
        >>> from rushes.pipelines.rules import load_rules, resolve
        >>> request = resolve(load_rules("wan2.2-t2v-a14b"), "a dog runs", preset="distilled-4", seed=7)
        >>> [round(t, 1) for t in request.sampling.timesteps]
        [1000.0, 937.5, 833.3, 625.0]
    """
    chosen = rules.preset(preset)
    given = _check_fields(rules, fields)
    _check_preset(chosen, given)
    _check_text("prompt", prompt)
    if not prompt.strip() and not has_prompt_embeds:
        raise InvalidRequest("prompt", f"must not be empty{', and this is white space' if prompt else ''}")
    if negative_prompt is None:
        negative_prompt = rules.negative_prompt
    _check_text("negative_prompt", negative_prompt)
    video = replace(rules.video, **_subset(VideoSpec, given))
    _check_tokens(rules, video)
    checked_mode = _check_mode(rules, mode)
    sampling = _sampling(rules, chosen, given)
    return GenerateRequest(
        prompt=prompt,
        negative_prompt=negative_prompt,
        pipeline=rules.name,
        video=video,
        sampling=_without_reuse(sampling, given) if checked_mode == "causal" else sampling,
        mode=checked_mode,
    )


def _check_fields(rules: PipelineRules, fields: Mapping[str, object]) -> dict[str, Value]:
    accepted = rules.fields
    given = {name: value for name, value in fields.items() if value is not None}
    for name in given:
        if name in FIELDS and name not in accepted:
            raise InvalidRequest(name, f"{rules.name} has one noise expert; set guidance_high")
        if name not in accepted:
            raise UnknownName("field", name, accepted)
    return {name: accepted[name].check(value) for name, value in given.items()}


def _check_preset(preset: Preset, given: Mapping[str, Value]) -> None:
    """A preset of fixed timesteps leaves no choice of their number, nor of the shift where it is applied."""
    fixed = preset.fixed_timesteps(preset.flow_shift)
    if fixed is None:
        return
    steps = given.get("num_inference_steps", len(fixed))
    if steps != len(fixed):
        raise InvalidRequest("num_inference_steps", f"the preset has {len(fixed)} fixed steps, got {steps}")
    shift = given.get("flow_shift", preset.flow_shift)
    if shift != preset.flow_shift and preset.timesteps is not None:
        raise InvalidRequest("flow_shift", f"the preset's timesteps are fixed after the shift, got {shift}")


def _check_mode(rules: PipelineRules, mode: object) -> Mode:
    if mode is None:
        return "full"
    if not isinstance(mode, str):
        raise InvalidRequest("mode", f"must be one of {', '.join(MODES)}, got {shown(mode)}")
    if mode not in MODES:
        raise UnknownName("mode", mode, MODES)
    if mode == "causal" and not rules.supports_causal:
        raise InvalidRequest("mode", f"{rules.name} was not trained to generate causally; use 'full'")
    return cast(Mode, mode)


def _without_reuse(sampling: SamplingParams, given: Mapping[str, Value]) -> SamplingParams:
    """A causal clip runs every forward: what a preset would reuse is dropped, what the caller asked for is
    refused."""
    for name, off in (("guidance_gate", 1.0), ("step_cache", 0.0)):
        if given.get(name, off) != off:
            raise InvalidRequest(
                name, f"must be {off:g} in causal mode, which reuses none; got {given[name]}"
            )
    return replace(sampling, guidance_gate=1.0, step_cache=0.0)


def _check_text(field: str, text: object) -> None:
    if not isinstance(text, str):
        raise InvalidRequest(field, f"must be text, got {shown(text)}")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(field, f"must have at most {MAX_PROMPT_CHARACTERS} characters, got {len(text)}")
    if "\0" in text:
        raise InvalidRequest(field, f"must not hold a NUL byte, got one at character {text.index(chr(0))}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            field, f"must be valid Unicode, got a lone surrogate at character {error.start}"
        ) from None


def _check_tokens(rules: PipelineRules, video: VideoSpec) -> None:
    tokens = rules.num_tokens(video)
    if tokens <= rules.max_tokens:
        return
    size = f"{video.width}x{video.height}"
    frame_tokens = rules.num_tokens(replace(video, num_frames=1))
    latent_frames = rules.max_tokens // frame_tokens
    if latent_frames == 0:
        pixels = rules.max_tokens * video.width * video.height // frame_tokens
        raise InvalidRequest(
            "width", f"{size} is too large even for one frame, which may have {pixels} pixels"
        )
    frames = (latent_frames - 1) * rules.temporal_stride + 1
    raise InvalidRequest(
        "num_frames",
        f"must be at most {frames} at {size} ({frames / video.fps:.3g} s), got {video.num_frames}",
    )


def _sampling(rules: PipelineRules, preset: Preset, given: Mapping[str, Value]) -> SamplingParams:
    values: dict[str, Any] = {**_subset(SamplingParams, fields_of(preset)), **_subset(SamplingParams, given)}
    if rules.is_one_expert:
        values["guidance_low"] = values["guidance_high"]
    values.setdefault("seed", secrets.randbelow(2**32))
    values["timesteps"] = preset.fixed_timesteps(values["flow_shift"])
    return SamplingParams(**values)


def _subset(target: type[VideoSpec] | type[SamplingParams], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that are fields of `target`."""
    names = {field.name for field in dataclass_fields(target)}
    return {name: value for name, value in values.items() if name in names}
