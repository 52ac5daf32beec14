"""Wan at its true shapes with random weights as subjects of the profiler, and diffusers on the same weights.

Both noise experts, and both libraries, have the same weights in the same memory, which no timing notices.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.random_vae import diffusers_config
from benchmarks.random_wan import (
    A14B,
    TI2V_5B,
    TINY,
    beside,
    diffusers_sharing,
    fill,
    random_vae,
    random_wan,
    with_backend,
)
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline

from rushes.models import umt5, wan_vae
from rushes.models.configs import WanConfig, WanVAEConfig
from rushes.models.expert_pair import ExpertPair, OneExpert, ResidentExperts
from rushes.models.text import TextEncoder, UMT5TextEncoder, load_tokenizer
from rushes.models.tiny_tokenizer import write_tokenizer
from rushes.models.umt5 import UMT5Config
from rushes.models.wan import Wan
from rushes.passes.base import ClipShape
from rushes.pipelines.model import Model
from rushes.pipelines.rules import load_rules
from rushes.profiling.against import Diffusers
from rushes.profiling.bench.diffusers_pipeline import DiffusersPipeline
from rushes.profiling.clip import Ask
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
    loras = ()

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
        self.name, self.pipe, self.waits = "diffusers", pipe, False
        self._device, self._dtype = device, dtype
        pipe.set_progress_bar_config(disable=True)


def their_vae(config: WanVAEConfig, device: torch.device, dtype: torch.dtype) -> AutoencoderKLWan:
    """diffusers' VAE of that shape."""
    with device:
        vae = AutoencoderKLWan(**diffusers_config(config))
    return vae.to(dtype).eval().requires_grad_(False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One model on a device, in both libraries.

    Attributes:
        theirs: diffusers' pipeline.
    """

    net: Model
    theirs: RandomDiffusers

    def ours(self, case: Case) -> Rushes:
        """Our subject: one step of each noise expert."""
        ask = Ask(prompt=PROMPT, fields={**case.fields, "seed": 7})
        return Rushes(net=self.net, ask=ask, short_steps=1)

    def diffusers(self, case: Case) -> Diffusers:
        """Theirs; it shares our text encoder."""
        return Diffusers(
            contender=self.theirs,
            request=self.net.job(PROMPT, **case.fields, seed=7).request,
            device=self.net.device,
            model=self.net.rules.name,
            boundary=self.net.boundary,
        )


def build(case: Case, device: torch.device, dtype: torch.dtype) -> Built:
    """The models of a case, which other cases of the same architecture may use too."""
    rules = load_rules(case.rules)
    with tempfile.TemporaryDirectory() as folder:
        parts = RandomParts(case, rules.boundary, device, dtype, Path(folder) / "tokenizer")
    network = parts.experts().select(1000.0)
    assert isinstance(network, Wan)
    high = diffusers_sharing(network, dtype)
    encoder = parts.text_encoder()
    assert isinstance(encoder, UMT5TextEncoder)
    pipe = WanPipeline(
        tokenizer=encoder._tokenizer,
        text_encoder=encoder.model,
        transformer=high,
        transformer_2=None if rules.boundary is None else beside(high, network),
        vae=their_vae(case.vae, device, dtype),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        boundary_ratio=rules.boundary,
        expand_timesteps=rules.boundary is None,
    )
    return Built(
        net=Model(rules, parts, boundary=rules.boundary, device=device),
        theirs=RandomDiffusers(pipe, device, str(dtype).removeprefix("torch.")),
    )


@torch.no_grad()
def warm_ours(subject: Rushes) -> None:
    """Every shape once: the text with its negative prompt, two blocks, which are all alike, two latents."""
    net = subject.net
    job = net.job("another prompt, as the encoded one is kept", **subject.ask.fields)
    stage = net.pipeline.current(job)
    assert stage is not None
    stage.prepare(job)
    stage.run([job])
    states = net.parts.text_encoder().encode(PROMPT).states
    latents = torch.zeros((1, *job.latent_shape), device=net.device)
    network = net.parts.experts().select(1000.0)
    with first_blocks(network):
        network(latents, torch.tensor([999.0], device=net.device), network.encode_text(states))
    vae = net.parts.vae()
    _, state = vae.decode_step(latents[:, :, :1])
    for _ in range(2):  # the second latent's cache differs from the others'
        _, state = vae.decode_step(latents[:, :, :1], state)
    net.pipeline.synchronize()


@torch.no_grad()
def warm_theirs(subject: Diffusers, net: Model) -> None:
    """The same there."""
    pipe, shape = subject.contender.pipe, net.job(PROMPT, **_sizes(subject)).latent_shape
    dtype = pipe.transformer.proj_out.weight.dtype
    latents = torch.zeros((1, *shape), device=net.device, dtype=dtype)
    states = net.parts.text_encoder().encode(PROMPT).states.to(dtype)
    with first_blocks(pipe.transformer):
        time = torch.tensor([999.0], device=net.device)
        pipe.transformer(hidden_states=latents, timestep=time, encoder_hidden_states=states)
    pipe.vae.decode(latents[:, :, :3].contiguous())
    net.pipeline.synchronize()


def _sizes(subject: Diffusers) -> dict[str, int]:
    video = subject.request.video
    return {"width": video.width, "height": video.height, "num_frames": video.num_frames}


@contextmanager
def first_blocks(network: Any, number: int = 2) -> Iterator[None]:
    """A network of its first blocks only, while the block lasts."""
    blocks = network.blocks
    network.blocks = blocks[:number]
    try:
        yield
    finally:
        network.blocks = blocks
