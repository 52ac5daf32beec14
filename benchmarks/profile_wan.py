"""Full profiles of Wan at its true shapes with random weights, and of diffusers at the same in the same run.

    python -m benchmarks.profile_wan --case a14b-480p --repeats 2 --output $OUT

Writes CASE.json, CASE.html and CASE.trace.json.gz. A few units of each kind are run, the rest is extrapolated
and marked so. Both noise experts have the same weights, which no timing notices and half the memory holds.
`--tiny` runs every line on the CPU in shapes that prove nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.random_wan import A14B, TI2V_5B, TINY, fill, random_vae, random_wan, with_backend
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from rushes.models import umt5, wan_vae
from rushes.models.configs import WanConfig, WanVAEConfig
from rushes.models.expert_pair import ExpertPair, OneExpert, ResidentExperts
from rushes.models.text import TextEncoder, UMT5TextEncoder, load_tokenizer
from rushes.models.tiny_tokenizer import write_tokenizer
from rushes.models.umt5 import UMT5Config
from rushes.passes.base import ClipShape
from rushes.pipelines.model import Model
from rushes.pipelines.rules import load_rules
from rushes.profiling.against import Diffusers
from rushes.profiling.bench.about import about
from rushes.profiling.bench.diffusers_pipeline import DiffusersPipeline
from rushes.profiling.chrome import save_trace
from rushes.profiling.clip import Ask
from rushes.profiling.page_writer import save_page
from rushes.profiling.report import Profile, save
from rushes.profiling.session import Options, Subject, profile
from rushes.profiling.subject import Rushes

PROMPT = "A red fox runs through fresh snow at dawn, low camera, soft light"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is profiled.

    Attributes:
        rules: name of the pipeline.
        fields: of the request, over the official settings.
    """

    rules: str
    transformer: WanConfig
    vae: WanVAEConfig
    text: UMT5Config
    fields: dict[str, Any]


CASES = {
    "a14b-480p": Case(
        rules="wan2.2-t2v-a14b",
        transformer=A14B,
        vae=wan_vae.WAN21_VAE,
        text=UMT5Config(),
        fields={"width": 832, "height": 480, "num_frames": 81},
    ),
    "a14b-720p": Case(
        rules="wan2.2-t2v-a14b",
        transformer=A14B,
        vae=wan_vae.WAN21_VAE,
        text=UMT5Config(),
        fields={"width": 1280, "height": 720, "num_frames": 81},
    ),
    "ti2v-5b-704p": Case(
        rules="wan2.2-ti2v-5b",
        transformer=TI2V_5B,
        vae=wan_vae.WAN22_VAE,
        text=UMT5Config(),
        fields={"width": 1280, "height": 704, "num_frames": 121},
    ),
}


def tiny(case: Case) -> Case:
    """The same in shapes for a CPU."""
    kind = "a14b" if case.transformer is A14B else "ti2v-5b"
    return replace(
        case,
        transformer=TINY.transformers[kind],
        vae=replace(case.vae, base_dim=8, decoder_base_dim=8, num_res_blocks=1),
        text=TINY.umt5,
        fields={"width": 64, "height": 64, "num_frames": 9},
    )


class RandomParts:
    """Implements `rushes.pipelines.base.Parts`.

    Args:
        folder: a new one, for the tokenizer; the only part that is small.
    """

    identity = encoder_revision = "random"

    def __init__(
        self, case: Case, boundary: float | None, device: torch.device, dtype: torch.dtype, folder: Path
    ) -> None:
        self.transformer_config, self.vae_config = case.transformer, case.vae
        network = random_wan(case.transformer, 1, device, dtype)
        self._experts: ExpertPair = OneExpert(network)
        if boundary is not None:
            low = with_backend(network, "auto")  # another module of the same weights
            self._experts = ResidentExperts(network, low, boundary=boundary)
        self._vae = random_vae(case.vae, 3, device, dtype)
        encoder = fill(umt5.build_umt5(case.text), seed=4, device=device, dtype=dtype)
        umt5.tie_embedding(encoder)
        write_tokenizer(folder)
        self._text_encoder = UMT5TextEncoder(encoder, load_tokenizer(folder))

    def experts(self, lora: str | None = None) -> ExpertPair:
        """See `Parts`."""
        return self._experts

    def vae(self) -> wan_vae.WanVAE:
        """See `Parts`."""
        return self._vae

    def text_encoder(self) -> TextEncoder:
        """See `Parts`."""
        return self._text_encoder

    def expect(self, shapes: Sequence[ClipShape]) -> None:
        """See `Parts`. No pass changes these networks."""


class RandomDiffusers(DiffusersPipeline):
    """The contender over a pipeline that is at hand, not in a folder."""

    def __init__(self, pipe: Any, device: torch.device, dtype: str) -> None:
        self.name, self.pipe = "diffusers", pipe
        self._device, self._dtype = device, dtype
        pipe.set_progress_bar_config(disable=True)


def their_transformer(config: WanConfig, device: torch.device, dtype: torch.dtype) -> WanTransformer3DModel:
    """diffusers' network with random weights, cast as `from_pretrained` casts."""
    with torch.device("meta"):
        model = _their_module(config)
    kept = set(model._keep_in_fp32_modules)
    model = fill(
        model,
        seed=1,
        device=device,
        dtype=dtype,
        keep_float32=lambda name: not kept.isdisjoint(name.split(".")),
    )
    return _with_rope(model, config, device)


def sharing(model: WanTransformer3DModel, config: WanConfig, device: torch.device) -> WanTransformer3DModel:
    """Another module of the same weights."""
    with torch.device("meta"):
        other = _their_module(config)
    other.load_state_dict(model.state_dict(), assign=True)
    return _with_rope(other.eval().requires_grad_(False), config, device)


def _their_module(config: WanConfig) -> WanTransformer3DModel:
    same = ("num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels")
    same += ("ffn_dim", "text_dim", "freq_dim", "patch_size", "eps", "rope_max_seq_len")
    return WanTransformer3DModel(**{name: getattr(config, name) for name in same})


def _with_rope(
    model: WanTransformer3DModel, config: WanConfig, device: torch.device
) -> WanTransformer3DModel:
    # Its tables are no part of the state.
    rope = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
    model.rope = rope.to(device)
    return model


def their_vae(config: WanVAEConfig, device: torch.device, dtype: torch.dtype) -> AutoencoderKLWan:
    """diffusers' VAE of that shape."""
    channels = 3 * config.patch_size**2
    patch = {} if config.patch_size == 1 else {"patch_size": config.patch_size}
    with device:
        vae = AutoencoderKLWan(
            base_dim=config.base_dim,
            decoder_base_dim=config.decoder_base_dim,
            z_dim=config.z_dim,
            dim_mult=list(config.dim_mult),
            num_res_blocks=config.num_res_blocks,
            temperal_downsample=list(config.temporal_downsample),
            is_residual=config.is_residual,
            in_channels=channels,
            out_channels=channels,
            latents_mean=list(config.latents_mean),
            latents_std=list(config.latents_std),
            scale_factor_temporal=config.temporal_stride,
            scale_factor_spatial=config.spatial_stride,
            **patch,
        )
    return vae.to(dtype).eval().requires_grad_(False)


def their_subject(net: Model, parts: RandomParts, case: Case, dtype: torch.dtype, request: Any) -> Diffusers:
    """diffusers as a subject; it shares our text encoder."""
    device = net.device
    network = their_transformer(case.transformer, device, dtype)
    encoder = parts.text_encoder()
    assert isinstance(encoder, UMT5TextEncoder)
    pipe = WanPipeline(
        tokenizer=encoder._tokenizer,
        text_encoder=encoder.model,
        transformer=network,
        transformer_2=None if net.boundary is None else sharing(network, case.transformer, device),
        vae=their_vae(case.vae, device, dtype),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        boundary_ratio=net.boundary,
        expand_timesteps=net.boundary is None,
    )
    return Diffusers(
        contender=RandomDiffusers(pipe, device, str(dtype).removeprefix("torch.")),
        request=request,
        device=device,
        model=net.rules.name,
        boundary=net.boundary,
    )


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    """Profile one case and write its files."""
    parser = argparse.ArgumentParser(description="profiles of Wan at its true shapes")
    parser.add_argument("--case", choices=CASES, default="a14b-480p")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="leave diffusers out")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    asked = parser.parse_args(argv)
    case = tiny(CASES[asked.case]) if asked.tiny else CASES[asked.case]
    device = torch.device("cpu" if asked.tiny else "cuda")
    dtype = torch.float32 if asked.tiny else torch.bfloat16
    rules = load_rules(case.rules)
    with tempfile.TemporaryDirectory() as folder:
        parts = RandomParts(case, rules.boundary, device, dtype, Path(folder) / "tokenizer")
    net = Model(rules, parts, boundary=rules.boundary, device=device)
    fields = {**case.fields, "seed": 7}
    subjects: list[Subject] = [Rushes(net=net, ask=Ask(prompt=PROMPT, fields=fields))]
    if not asked.alone:
        subjects.append(their_subject(net, parts, case, dtype, net.job(PROMPT, **fields).request))
    options = Options(repeats=asked.repeats, is_short=True)
    sessions = profile(subjects, options, lambda text: print(text, flush=True))
    about_run = {**about(device), "weights": "random", "dtype": str(dtype), "tiny": asked.tiny}
    found = Profile(kind="against", about=about_run, runs=tuple(session.run for session in sessions))
    asked.output.mkdir(parents=True, exist_ok=True)
    name = f"profile_{asked.case}"
    save(found, asked.output / f"{name}.json")
    save_page(found, asked.output / f"{name}.html")
    recorded = sessions[0].recorded
    save_trace(found, recorded.trace if recorded else None, asked.output / f"{name}.trace.json.gz")
    for session in sessions:
        print(session.run.label, f"{session.run.total_s:.1f} s", [f.text for f in session.run.findings[:3]])


if __name__ == "__main__":
    main()
