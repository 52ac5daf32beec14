"""The rules of the embedded toy model."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from rushes.config import TOY_FOLDER
from rushes.pipelines.rules import PipelineRules, Preset
from rushes.types import VideoSpec

QUALITY = Preset(
    title="20 steps",
    num_inference_steps=20,
    solver="ddim",
    flow_shift=3.0,
    guidance_high=2.5,
    guidance_low=2.5,
)

FAST = replace(QUALITY, title="8 steps", num_inference_steps=8)

FEW_STEP = replace(
    QUALITY,
    title="4 steps without guidance, few-step LoRA",
    num_inference_steps=4,
    guidance_high=1.0,
    guidance_low=1.0,
    lora="few_step.safetensors",
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
    has_small_vocabulary=True,
    synonyms=TOY_FOLDER / "tokenizer" / "synonyms.json",
    edit_preset="few-step-4",
)
