"""A whole model small enough for any test: random weights, no files; implements `pipelines.base.Parts`."""

from dataclasses import replace

import torch

from rushes.models.configs import ExpertsConfig, WanConfig, WanVAEConfig
from rushes.models.expert_pair import OneExpert, ResidentExperts
from rushes.models.text import PromptEmbeds
from rushes.models.wan import Wan
from rushes.models.wan_vae import WanVAE
from rushes.pipelines.model import Model
from rushes.pipelines.rules import load_rules
from rushes.stages.base import Given, Job
from rushes.types import GenerateRequest, SamplingParams, VideoSpec

TRANSFORMER = WanConfig(
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    ffn_dim=32,
    text_dim=8,
    freq_dim=16,
)
ROUTED = replace(TRANSFORMER, experts=ExpertsConfig(num_experts=4, top_k=2, expert_dim=16, shared_dim=16))
VAE = WanVAEConfig(
    base_dim=8, z_dim=4, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,), is_residual=False
)
TEXT_LEN = 6
CPU = torch.device("cpu")


class TinyTextEncoder:
    """A text's states are noise seeded by the text; counts what it is asked."""

    def __init__(self):
        self.prompts = []

    def encode(self, prompt):
        self.prompts.append(prompt)
        return embeds(prompt)


def embeds(text, num_tokens=TEXT_LEN):
    generator = torch.Generator().manual_seed(sum(text.encode()))
    return PromptEmbeds(
        states=torch.randn((1, num_tokens, TRANSFORMER.text_dim), generator=generator), pooled=None
    )


class TinyParts:
    """Parts built once, all on the CPU in float32."""

    vae_config = VAE
    identity = encoder_revision = "tiny"
    loras = ()

    def __init__(self, vae=None, boundary=None, transformer=TRANSFORMER):
        self.transformer_config = transformer
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.transformers = {"high": Wan(transformer).eval(), "low": Wan(transformer).eval()}
            self._vae = vae or WanVAE(VAE).eval()
        self.encoder = TinyTextEncoder()
        self.boundary = boundary

    def experts(self, lora=None):
        if self.boundary is None:
            return OneExpert(self.transformers["high"])
        return ResidentExperts(**self.transformers, boundary=self.boundary)

    def vae(self):
        return self._vae

    def text_encoder(self):
        return self.encoder

    def expect(self, shapes):
        pass


def tiny_rules(**changes):
    rules = load_rules("toy")
    preset = replace(rules.preset(), num_inference_steps=3, guidance_high=2.0, guidance_low=2.0)
    fields = {
        "spatial_multiple": 4,
        "temporal_stride": 2,
        "video": VideoSpec(width=16, height=8, num_frames=5, fps=8),
        "sizes": ((16, 8),),
        "presets": {**rules.presets, rules.default_preset: preset},
        "negative_prompt": "blurry",
        "supports_causal": True,
    }
    return replace(rules, **{**fields, **changes})


def tiny_model(parts=None, **rules):
    parts = parts or TinyParts()
    return Model(tiny_rules(**rules), parts, boundary=parts.boundary, device=CPU)


def request(
    prompt="a dog",
    *,
    seed=0,
    steps=3,
    solver="unipc",
    guidance=2.0,
    frames=5,
    shift=3.0,
    mode="full",
    gate=1.0,
    cache=0.0,
):
    sampling = SamplingParams(
        num_inference_steps=steps,
        solver=solver,
        flow_shift=shift,
        guidance_high=guidance,
        guidance_low=guidance,
        seed=seed,
        guidance_gate=gate,
        step_cache=cache,
    )
    video = VideoSpec(width=16, height=8, num_frames=frames, fps=8)
    return GenerateRequest(
        prompt=prompt, negative_prompt="blurry", pipeline="toy", video=video, sampling=sampling, mode=mode
    )


def tiny_job(prompt="a dog", *, guidance=2.0, given=None, two_experts=False, **fields):
    asked = request(prompt, guidance=guidance, **fields)
    scales = {"high": guidance, "low": guidance} if two_experts else {"high": guidance}
    shape = (4, (asked.video.num_frames - 1) // 2 + 1, 4, 8)
    return Job(request=asked, latent_shape=shape, guidance=scales, given=given or Given())
