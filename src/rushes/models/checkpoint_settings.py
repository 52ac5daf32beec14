"""Settings that a checkpoint decides, each with its origin, and the known traps explained. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved(Generic[T]):
    """A setting's value and the sentence that says where it came from."""

    value: T
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialSettings:
    """What the authors of a model sample it with (wan/configs of Wan-Video/Wan2.1 and Wan2.2).

    Attributes:
        boundary: fraction of 1000; timesteps at or above it run the high-noise expert. None: one expert.
    """

    flow_shift: float
    boundary: float | None = None
    solver: str = "unipc"


OFFICIAL: Mapping[str, OfficialSettings] = {
    "wan2.2-t2v-a14b": OfficialSettings(flow_shift=12.0, boundary=0.875),
    "wan2.2-ti2v-5b": OfficialSettings(flow_shift=5.0),
    "wan2.1-t2v-1.3b": OfficialSettings(flow_shift=8.0),
    "wan2.1-t2v-14b": OfficialSettings(flow_shift=5.0),
    "toy": OfficialSettings(flow_shift=3.0, solver="ddim"),
}

CONVERTER_SHIFT = 3.0
"""The flow_shift that diffusers' conversion script writes for every text-to-video model."""

SOLVER_OF_SCHEDULER = {
    "UniPCMultistepScheduler": "unipc",
    "DPMSolverMultistepScheduler": "dpmpp-2m",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "LCMScheduler": "lcm",
    "FlowMatchLCMScheduler": "lcm",
    "DDIMScheduler": "ddim",
}

DISTILLED_WORDS = ("lightx2v", "lightning", "distill", "fastwan", "4step", "4-step", "dmd")

ORIGINAL = "official value (the folder's layout holds no scheduler settings)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The sampling settings that a folder decides."""

    boundary: Resolved[float | None]
    flow_shift: Resolved[float]
    solver: Resolved[str]


def resolve_settings(
    pipeline: str, *, has_low: bool, model_index: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> Settings:
    """Settle boundary, shift and solver from `model_index.json`, the scheduler's config and official values.

    Both mappings are empty for a folder of the original layout.
    """
    official = OFFICIAL[pipeline]
    return Settings(
        boundary=_boundary(official, has_low, model_index),
        flow_shift=_flow_shift(pipeline, scheduler),
        solver=_solver(official, scheduler),
    )


def _boundary(
    official: OfficialSettings, has_low: bool, model_index: Mapping[str, Any]
) -> Resolved[float | None]:
    stated = model_index.get("boundary_ratio")
    if stated is not None:
        return Resolved(value=float(stated), origin="model_index.json, boundary_ratio")
    if has_low:
        return Resolved(value=official.boundary or 0.875, origin="official value")
    return Resolved(value=None, origin="one expert")


def _flow_shift(pipeline: str, scheduler: Mapping[str, Any]) -> Resolved[float]:
    official, stated = OFFICIAL[pipeline], _stated_shift(scheduler)
    if stated is None:
        return Resolved(value=official.flow_shift, origin="official value" if scheduler else ORIGINAL)
    if _is_converter_shift(pipeline, stated):
        origin = f"official value, instead of the converter's {stated} in scheduler_config.json"
        return Resolved(value=official.flow_shift, origin=origin)
    return Resolved(value=stated, origin="scheduler/scheduler_config.json")


def _stated_shift(scheduler: Mapping[str, Any]) -> float | None:
    stated = scheduler.get("flow_shift", scheduler.get("shift"))
    return None if stated is None else float(stated)


def _is_converter_shift(pipeline: str, stated: float) -> bool:
    """Wan2.2 only: for Wan2.1 at 480p, 3.0 is also a published recommendation."""
    return stated == CONVERTER_SHIFT and pipeline.startswith("wan2.2")


def _solver(official: OfficialSettings, scheduler: Mapping[str, Any]) -> Resolved[str]:
    name = scheduler.get("_class_name")
    if name in SOLVER_OF_SCHEDULER:
        return Resolved(value=SOLVER_OF_SCHEDULER[name], origin=f"scheduler/scheduler_config.json, {name}")
    if name is None:
        return Resolved(value=official.solver, origin="official value" if scheduler else ORIGINAL)
    return Resolved(value=official.solver, origin=f"official value; {name} is not a solver of Rushes")


def explain(
    pipeline: str, settings: Settings, scheduler: Mapping[str, Any], files: tuple[Path, ...]
) -> list[str]:
    """One sentence for each trap that this folder can lead into.

    Args:
        files: the folder itself and what lies in it; a name may say that the model, or a LoRA, is distilled.
    """
    notes = _shift_notes(pipeline, scheduler) + _distilled_notes(files)
    if settings.boundary.value is not None:
        boundary = settings.boundary.value * 1000
        notes += [
            "Guidance: guidance_high is diffusers' guidance_scale and guidance_low its guidance_scale_2;"
            " the official tuple (3.0, 4.0) is written (low, high).",
            f"Experts: timesteps >= {boundary:g} run the high-noise expert, the others the low-noise one,"
            " each with its own keys and values of the prompt; the earlier steps that a multistep solver"
            " (unipc, dpmpp-2m) looks back on count across the switch, as in diffusers.",
        ]
    return notes


def _shift_notes(pipeline: str, scheduler: Mapping[str, Any]) -> list[str]:
    official, stated = OFFICIAL[pipeline], _stated_shift(scheduler)
    if stated is None or stated == official.flow_shift or pipeline == "toy":
        return []
    if _is_converter_shift(pipeline, stated):
        return [
            f"Shift: scheduler_config.json says flow_shift {stated}, which diffusers' converter writes for"
            f" every model; the official {official.flow_shift} of {pipeline} is used unless you set another."
        ]
    return [
        f"Shift: this folder's flow_shift {stated} is used; the official value of {pipeline} is"
        f" {official.flow_shift}."
    ]


def _distilled_notes(files: tuple[Path, ...]) -> list[str]:
    for file in files:
        if any(word in file.name.lower() for word in DISTILLED_WORDS):
            return [
                f"Distilled: {file.name} looks distilled for few steps, which needs its own fixed timesteps"
                " and no guidance: use preset distilled-4 (LightX2V: shift 5 on 1000, 750, 500, 250) or"
                " fastwan-3 (FastWan: t = 1000, 757, 522)."
            ]
    return []


def explain_precision(stored: Mapping[str, str]) -> list[str]:
    """A sentence when tables that need float32 are stored in less.

    Args:
        stored: tensor name to safetensors dtype name.
    """
    rounded = [name for name in stored if name.endswith(("modulation", "scale_shift_table"))]
    rounded = [name for name in rounded if stored[name] in ("BF16", "F16")]
    if not rounded:
        return []
    return [
        f"Precision: {rounded[0]} and {len(rounded) - 1} more modulation tables are stored in"
        f" {stored[rounded[0]]}; they were float32 when published, and rounding them changes the"
        " video. Rushes computes norms, modulation, the time path and RoPE in float32 in every dtype."
    ]
