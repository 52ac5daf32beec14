"""How an edit is sampled: with the few-step weights that come with a model, or by the clip's own settings.

By its own settings a clip goes on from a snapshot of its way, within its own schedule. With a preset there is
no such snapshot: its finished latents are noised again, to a level that is put into the preset's schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rushes.pipelines.rules import PipelineRules, resolve
from rushes.sampling.levels import schedule_of
from rushes.sampling.schedules import NUM_TRAIN_TIMESTEPS
from rushes.types import GenerateRequest, LatentSource, SamplingParams

OWN = "own"
"""In place of a preset's name: the settings of the clip that is edited."""

STRENGTH = 0.8
"""By the clip's own settings, where nobody says otherwise: the noise level at which it is taken up."""

_SAME_TIMESTEP = 1.0
"""Levels of the schedule that are nearer than this to the one asked for are that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How one edit is sampled.

    Attributes:
        preset: by whose settings; None for the clip's own.
        strength: noise level in 0..1 at which the clip is taken up.
    """

    preset: str | None
    strength: float


def way_of(rules: PipelineRules, preset: str | None, strength: float | None, *, has_lora: bool) -> Way:
    """What an edit of these fields means.

    Args:
        preset: as it was asked for: a name, `OWN`, or None for what the model does.
        has_lora: the few-step weights are there, as far as is known.

    Raises:
        UnknownName: the model has no such preset.
    """
    name = preset or (rules.edit_preset if has_lora else None) or OWN
    if name == OWN:
        return Way(preset=None, strength=STRENGTH if strength is None else strength)
    rules.preset(name)
    return Way(preset=name, strength=rules.edit_strength if strength is None else strength)


def lora_of(rules: PipelineRules) -> str | None:
    """The file without which the model's edits go by the clip's own settings."""
    return None if rules.edit_preset is None else rules.preset(rules.edit_preset).lora


def sampling_of(rules: PipelineRules, way: Way, request: GenerateRequest) -> SamplingParams:
    """The way's settings with the request's seed.

    The level at which finished latents are taken up is put into the schedule where it is no level of it, so
    that a clip whose latents turn out to be damaged can still begin with noise. With two noise experts it is
    not below their boundary, so that the first has its part; below the schedule's last level it is that one.
    """
    if way.preset is None:
        return request.sampling
    sampling = resolve(rules, "edit", preset=way.preset, seed=request.sampling.seed).sampling
    schedule = schedule_of(sampling)
    wanted = _level(rules, way) * NUM_TRAIN_TIMESTEPS
    if not schedule.timesteps[-1] < wanted < schedule.timesteps[0]:
        return sampling
    if any(abs(wanted - one) < _SAME_TIMESTEP for one in schedule.timesteps):
        return sampling
    timesteps = tuple(sorted((*schedule.timesteps, wanted), reverse=True))
    return replace(sampling, timesteps=timesteps, num_inference_steps=len(timesteps))


def source_of(
    rules: PipelineRules, way: Way, sampling: SamplingParams, name: str, *, mask: str | None
) -> LatentSource | None:
    """Where a preset's schedule takes finished latents up; None where it begins above the strength, which is
    a new clip. Under a mask it is never one.

    Args:
        sampling: of `sampling_of`.
        name: of the file of the finished latents.
        mask: name of the mask's file.
    """
    sigmas = schedule_of(sampling).sigmas[:-1]
    level = _level(rules, way) + _SAME_TIMESTEP / NUM_TRAIN_TIMESTEPS
    step = next((step for step, sigma in enumerate(sigmas) if sigma <= level), len(sigmas) - 1)
    if step == 0 and mask is None:
        return None
    return LatentSource(name=name, sigma=0.0, step=step, is_renoised=True, mask=mask)


def cost_of(sampling: SamplingParams, num_steps: int) -> int:
    """Forwards that so many steps take."""
    is_guided = sampling.guidance_high != 1 or sampling.guidance_low != 1
    return num_steps * (1 + is_guided)


def _level(rules: PipelineRules, way: Way) -> float:
    return max(way.strength, rules.boundary or 0.0)
