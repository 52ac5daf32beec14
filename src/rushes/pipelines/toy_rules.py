"""The rules of the embedded toy model."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from rushes.pipelines.rules import PipelineRules, Preset
from rushes.types import VideoSpec

QUALITY = Preset(
    title="Euler, 20 steps",
    num_inference_steps=20,
    solver="euler",
    flow_shift=3.0,
    guidance_high=1.0,
    guidance_low=1.0,
)

FAST = replace(QUALITY, title="Euler, 8 steps", num_inference_steps=8)

FEW_STEP = replace(
    QUALITY,
    title="4 evenly spaced steps",
    num_inference_steps=4,
    positions=(1000.0, 750.0, 500.0, 250.0),
)

TOY = PipelineRules(
    name="toy",
    title="embedded toy model: emoji scenes on a laptop",
    models=("toy",),
    spatial_multiple=16,
    max_tokens=32_768,
    video=VideoSpec(width=192, height=128, num_frames=33, fps=16),
    sizes=((192, 128),),
    presets=MappingProxyType({"quality": QUALITY, "fast": FAST, "few-step-4": FEW_STEP}),
    supports_causal=True,
)
