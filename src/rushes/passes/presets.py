"""Which passes `rushes optimize` tries, in what order, and what requests reuse: data, no torch.

| preset | may change | tries |
|---|---|---|
| exact | nothing beyond the noise floor | attention kernel, compilation of transformer and VAE |
| fast | details | these, float8 linears and attention, step cache and guidance gate |
| turbo | the picture, within its budget | these, sparse attention |

A pass of the list that is not installed, or that refuses the model or the device, is reported and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from rushes.errors import ConfigError, UnknownName

NO_SETTINGS: tuple[Mapping[str, Any], ...] = (MappingProxyType({}),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A pass that a preset tries.

    Attributes:
        name: of `rushes.passes.base.PASSES`.
        settings: its fields, best first; kept is the first that machine and network take.
        cpu_settings: the same on a CPU; None for `settings`.
        instead_of: tried only where the pass of this name was not kept.
    """

    name: str
    settings: tuple[Mapping[str, Any], ...] = NO_SETTINGS
    cpu_settings: tuple[Mapping[str, Any], ...] | None = None
    instead_of: str | None = None

    def settings_on(self, device_type: str) -> tuple[Mapping[str, Any], ...]:
        """What to try on "cpu" or "cuda"."""
        is_other = device_type == "cpu" and self.cpu_settings is not None
        return self.cpu_settings if is_other and self.cpu_settings is not None else self.settings


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPreset:
    """A choice between time and likeness.

    Attributes:
        candidates: in the order in which they are tried, each on top of those kept before it.
        budget_db: least PSNR against the plain model; None for the noise floor's own.
        reuses: also try what steps reuse of earlier ones (`reuse_of`).
    """

    title: str
    candidates: tuple[Candidate, ...]
    budget_db: float | None
    reuses: bool


_EXACT = (
    Candidate(
        name="attention",
        settings=({"backend": "fa3"}, {"backend": "cudnn"}),
        cpu_settings=({"backend": "sdpa"},),
    ),
    Candidate(name="compile"),
    Candidate(name="vae-fused"),
    Candidate(name="vae-compile", instead_of="vae-fused"),
)
_ATTENTION_LINEARS = MappingProxyType({"targets": ("qkv", "attn_out", "cross_q", "cross_out")})
"""Of a network whose FFN are token experts, which are grouped matmuls and no linear layers."""

_FAST = (
    *_EXACT,
    Candidate(name="fp8-linears", settings=(*NO_SETTINGS, _ATTENTION_LINEARS)),
    Candidate(name="fp8-attention"),
)
_TURBO = (
    *_FAST,
    Candidate(
        name="sparse-attention",
        settings=({"backend": "fa3", "float8": True}, {"backend": "fa3"}, {}),
        # The toy's frames have 96 tokens: in blocks of 128 nothing would be left out.
        cpu_settings=({"block": 8},),
    ),
)

PLAN_PRESETS: Mapping[str, PlanPreset] = MappingProxyType(
    {
        "exact": PlanPreset(
            title="the same clip, up to rounding", candidates=_EXACT, budget_db=None, reuses=False
        ),
        "fast": PlanPreset(
            title="float8 linears and attention, and steps that reuse earlier ones",
            candidates=_FAST,
            budget_db=24.0,
            reuses=True,
        ),
        "turbo": PlanPreset(title="sparse attention too", candidates=_TURBO, budget_db=18.0, reuses=True),
    }
)
"""By name. The budgets are those at which published caches are used: 25 to 27 dB is the same clip in other
details (MagCache, arXiv:2506.09045; EasyCache, arXiv:2507.02860)."""

_EASYCACHE_WAN: Mapping[str, float] = MappingProxyType({"step_cache": 0.05, "guidance_gate": 0.5})

REUSE: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "toy": MappingProxyType({"step_cache": 0.05, "guidance_gate": 1.0}),
        "wan2.2-t2v-a14b": _EASYCACHE_WAN,
        "wan2.2-ti2v-5b": _EASYCACHE_WAN,
        "wan2.1-t2v-14b": _EASYCACHE_WAN,
        "wan2.1-t2v-1.3b": _EASYCACHE_WAN,
    }
)
"""Request fields by model. Wan: EasyCache's published threshold for Wan2.1 (5 %), and the gate at half the
steps at which published quality stays within noise; neither has been measured by us on trained Wan weights.
The toy: the same threshold, 12.6 of 20 forwards a branch, 0.2 points of adherence lost of 512 prompts. Its
gate stays open: under shift 3 half of the steps are done at noise 0.75, where guidance decides still what a
sprite is; closed there it costs 21.7 points (benchmarks/results/step_reuse_h200.json)."""


def plan_preset(name: str) -> PlanPreset:
    """The preset of this name. Raises `UnknownName`.

    Example:
        >>> [one.name for one in plan_preset("exact").candidates]
        ['attention', 'compile', 'vae-fused', 'vae-compile']
    """
    if name not in PLAN_PRESETS:
        raise UnknownName("preset", name, PLAN_PRESETS)
    return PLAN_PRESETS[name]


def with_calibration(preset: PlanPreset, settings: Mapping[str, Any]) -> PlanPreset:
    """The preset, trying int8-linears with these settings where float8 linears are not kept. Raises
    `ConfigError` when it tries no 8-bit linears."""
    names = _names(preset)
    if "fp8-linears" not in names:
        others = ", ".join(name for name, each in PLAN_PRESETS.items() if "fp8-linears" in _names(each))
        raise ConfigError(f"calibration: this preset tries no 8-bit linears; choose from {others}")
    after = names.index("fp8-linears") + 1
    one = Candidate(name="int8-linears", settings=(settings,), instead_of="fp8-linears")
    return replace(preset, candidates=(*preset.candidates[:after], one, *preset.candidates[after:]))


def _names(preset: PlanPreset) -> list[str]:
    return [one.name for one in preset.candidates]


def reuse_of(model: str) -> Mapping[str, float]:
    """The fields with which a model's steps reuse earlier ones; none for a model that is not listed."""
    return REUSE.get(model, MappingProxyType({}))
