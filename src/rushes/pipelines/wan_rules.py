"""The rules of the public Wan text-to-video models.

The values are the official ones of Wan-Video/Wan2.2 and Wan2.1 (`wan/configs`, README); the distilled presets
are LightX2V's (`configs/wan22/wan_moe_t2v_distill.json`) and FastVideo's (`dmd_denoising_steps`).
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from rushes.pipelines.rules import PipelineRules, Preset
from rushes.types import VideoSpec

NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
"""`sample_neg_prompt` of Wan's `wan/configs/shared_config.py`."""

MAX_TOKENS = 4 * 75_600
"""Four times the largest official clip, 1280x720 with 81 frames: sixteen times its attention."""

SIZES_720P = ((1280, 720), (720, 1280), (832, 480), (480, 832))

_A14B_QUALITY = Preset(
    title="official: UniPC, 40 steps",
    num_inference_steps=40,
    solver="unipc",
    flow_shift=12.0,
    guidance_high=4.0,
    guidance_low=3.0,
)
_TI2V_QUALITY = Preset(
    title="official: UniPC, 50 steps",
    num_inference_steps=50,
    solver="unipc",
    flow_shift=5.0,
    guidance_high=5.0,
    guidance_low=5.0,
)
_WAN21_QUALITY = replace(_TI2V_QUALITY, title="official: UniPC, 50 steps, shift 5")
_WAN21_SMALL_QUALITY = replace(
    _WAN21_QUALITY,
    title="official: UniPC, 50 steps, shift 8",
    flow_shift=8.0,
    guidance_high=6.0,
    guidance_low=6.0,
)

# LightX2V lists positions before the shift: shift 5 makes them 1000, 937.5, 833.3 and 625, of which two lie
# above the boundary 875. Its sampler for Wan2.2 is Euler; for Wan2.1 it noises afresh.
_DISTILLED = Preset(
    title="4 steps without guidance; needs LightX2V's distilled weights",
    num_inference_steps=4,
    solver="euler",
    flow_shift=5.0,
    guidance_high=1.0,
    guidance_low=1.0,
    positions=(1000.0, 750.0, 500.0, 250.0),
)

# FastVideo gives the model these timesteps as they are and reads the noise level from each: no shift follows.
_FASTWAN = Preset(
    title="3 steps without guidance; needs FastWan's distilled weights",
    num_inference_steps=3,
    solver="lcm",
    flow_shift=8.0,
    guidance_high=1.0,
    guidance_low=1.0,
    timesteps=(1000.0, 757.0, 522.0),
)


def _presets(quality: Preset, **distilled: Preset) -> MappingProxyType[str, Preset]:
    """`quality`, `fast` made from it, and distilled ones (`fastwan_3` is named "fastwan-3")."""
    fast = replace(quality, title="UniPC, 10 steps", num_inference_steps=10)
    named = {name.replace("_", "-"): preset for name, preset in distilled.items()}
    return MappingProxyType({"quality": quality, "fast": fast, **named})


WAN22_T2V_A14B = PipelineRules(
    name="wan2.2-t2v-a14b",
    title="Wan2.2 T2V A14B: two noise experts of 14 B",
    models=("Wan-AI/Wan2.2-T2V-A14B", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"),
    spatial_multiple=16,
    max_tokens=MAX_TOKENS,
    video=VideoSpec(width=1280, height=720, num_frames=81, fps=16),
    sizes=SIZES_720P,
    presets=_presets(_A14B_QUALITY, distilled_4=_DISTILLED),
    boundary=0.875,
    negative_prompt=NEGATIVE_PROMPT,
)

WAN22_TI2V_5B = PipelineRules(
    name="wan2.2-ti2v-5b",
    title="Wan2.2 TI2V 5B: one network, 16x compressing VAE",
    models=("Wan-AI/Wan2.2-TI2V-5B", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
    spatial_multiple=32,
    max_tokens=MAX_TOKENS,
    video=VideoSpec(width=1280, height=704, num_frames=121, fps=24),
    sizes=((1280, 704), (704, 1280)),
    presets=_presets(_TI2V_QUALITY, fastwan_3=replace(_FASTWAN, flow_shift=5.0)),
    negative_prompt=NEGATIVE_PROMPT,
)

WAN21_T2V_1_3B = PipelineRules(
    name="wan2.1-t2v-1.3b",
    title="Wan2.1 T2V 1.3B",
    models=("Wan-AI/Wan2.1-T2V-1.3B", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    spatial_multiple=16,
    max_tokens=MAX_TOKENS,
    video=VideoSpec(width=832, height=480, num_frames=81, fps=16),
    sizes=((832, 480), (480, 832)),
    presets=_presets(_WAN21_SMALL_QUALITY, fastwan_3=_FASTWAN),
    negative_prompt=NEGATIVE_PROMPT,
)

WAN21_T2V_14B = PipelineRules(
    name="wan2.1-t2v-14b",
    title="Wan2.1 T2V 14B",
    models=("Wan-AI/Wan2.1-T2V-14B", "Wan-AI/Wan2.1-T2V-14B-Diffusers"),
    spatial_multiple=16,
    max_tokens=MAX_TOKENS,
    video=VideoSpec(width=1280, height=720, num_frames=81, fps=16),
    sizes=SIZES_720P,
    presets=_presets(_WAN21_QUALITY, distilled_4=replace(_DISTILLED, solver="lcm")),
    negative_prompt=NEGATIVE_PROMPT,
)
