"""What `benchmarks.engine_gpu` runs: models of true shapes with random weights, one on a device at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_report import free_memory
from benchmarks.random_wan import TINY, TRUE, fill, random_vae, random_wan
from benchmarks.speed_rungs import changed, rungs

import rushes
from rushes.models import umt5, wan_vae
from rushes.models.expert_pair import ExpertPair, OneExpert, ResidentExperts
from rushes.models.text import TextEncoder, UMT5TextEncoder, load_tokenizer
from rushes.models.tiny_tokenizer import write_tokenizer
from rushes.passes.base import ClipShape
from rushes.pipelines.model import Model
from rushes.pipelines.rules import load_rules
from rushes.types import GenerateRequest

PIPELINES = {"a14b": "wan2.2-t2v-a14b", "ti2v-5b": "wan2.2-ti2v-5b"}
PROMPT = "a dog is running in the park"
CAP_BYTES = 24 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Size of a clip; `tiny` is what stands for it on the CPU."""

    width: int
    height: int
    num_frames: int

    @property
    def tiny(self) -> Clip:
        """Multiples of the largest stride, a few frames."""
        width, height = (32 * max(1, side // 300) for side in (self.width, self.height))
        return Clip(width=width, height=height, num_frames=1 + 4 * max(1, self.num_frames // 32))

    @property
    def name(self) -> str:
        """As in 832x480x81."""
        return f"{self.width}x{self.height}x{self.num_frames}"


class RandomParts:
    """Implements `rushes.pipelines.base.Parts`. Two noise experts are one set of weights under two names,
    which takes the memory of one and the time of two.

    Args:
        folder: a new one, for the tokenizer.
        streams_text: the text encoder stays in host memory; it is drawn on the device all the same, before
            anything else is there.
        rung: of the speed table's ladder, whose passes the networks get.
    """

    identity = encoder_revision = "random"
    loras = ()

    def __init__(
        self,
        kind: str,
        device: torch.device,
        dtype: torch.dtype,
        folder: Path,
        *,
        tiny: bool,
        streams_text: bool = False,
        rung: str = "plain",
    ) -> None:
        shapes = TINY if tiny else TRUE
        self.transformer_config = shapes.transformers[kind]
        self.vae_config = wan_vae.WAN21_VAE if kind == "a14b" else wan_vae.WAN22_VAE
        if tiny:
            widths = {"base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1}
            self.vae_config = replace(self.vae_config, **widths)
        encoder = fill(umt5.build_umt5(shapes.umt5), seed=4, device=device, dtype=dtype)
        umt5.tie_embedding(encoder)
        write_tokenizer(folder)
        self._encoder = UMT5TextEncoder(encoder, load_tokenizer(folder), shapes.text_len)
        if streams_text:
            self._encoder.stream(device)
        # A tiny run proves the code, and compiling takes minutes.
        ladder = rungs(device, without=("compile", "vae-compile") if tiny else ())
        made = next(each for each in ladder if each.name == rung)
        network, _ = changed("transformer", random_wan(self.transformer_config, 1, device, dtype), made)
        boundary = load_rules(PIPELINES[kind]).boundary
        self._experts: ExpertPair = OneExpert(network)
        if boundary is not None:
            self._experts = ResidentExperts(network, network, boundary=boundary)
        self._vae, _ = changed("vae", random_vae(self.vae_config, 3, device, dtype), made)

    def experts(self, lora: str | None = None) -> ExpertPair:
        """See `Parts`."""
        return self._experts

    def vae(self) -> wan_vae.WanVAE:
        """See `Parts`."""
        return self._vae

    def text_encoder(self) -> TextEncoder:
        """See `Parts`."""
        return self._encoder

    def expect(self, shapes: Sequence[ClipShape]) -> None:
        """See `Parts`. No pass changes these networks."""


class Bench:
    """Makes the models, and requests to them."""

    def __init__(self, device: torch.device, *, tiny: bool) -> None:
        self.device, self.tiny = device, tiny
        self._dtype = torch.float32 if tiny else torch.bfloat16  # a CPU is slow in bfloat16
        self._kind: str | None = None
        self._model: Model | None = None

    def model(self, kind: str) -> Model:
        """a14b, ti2v-5b, ti2v-5b-streamed, ti2v-5b-exact or toy. The one before has left the device."""
        if self._model is None or self._kind != kind:
            self.free()
            self._model, self._kind = self._build(kind), kind
        return self._model

    def free(self) -> None:
        """Let the model go."""
        self._model = self._kind = None
        free_memory()

    def clip(self, width: int, height: int, num_frames: int) -> Clip:
        """Of this size, or its stand-in."""
        clip = Clip(width=width, height=height, num_frames=num_frames)
        return clip.tiny if self.tiny else clip

    def request(
        self, clip: Clip, steps: int, *, guided: bool = False, prompt: str = PROMPT, seed: int = 7
    ) -> GenerateRequest:
        """To the model that is there: Euler steps, one forward each, or two with guidance."""
        model = self._model
        assert model is not None, "no model is loaded"
        scale = 4.0 if guided else 1.0
        fields: dict[str, Any] = {"guidance_high": scale}
        if not model.rules.is_one_expert:
            fields["guidance_low"] = scale
        size = {"width": clip.width, "height": clip.height, "num_frames": clip.num_frames}
        sampling = {"num_inference_steps": steps, "solver": "euler", "flow_shift": 5.0, "seed": seed}
        return model.job(prompt, **size, **sampling, **fields).request

    @contextmanager
    def capped(self, num_bytes: int) -> Iterator[None]:
        """The process may take no more of the device than this. A CPU has no such cap."""
        if self.device.type != "cuda":
            yield
            return
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, num_bytes / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def _build(self, kind: str) -> Model:
        if kind == "toy":
            return rushes.load("toy", device=str(self.device))
        base = kind.removesuffix("-streamed").removesuffix("-exact")
        rules = load_rules(PIPELINES[base])
        with tempfile.TemporaryDirectory() as folder:
            parts = RandomParts(
                base,
                self.device,
                self._dtype,
                Path(folder) / "tokenizer",
                tiny=self.tiny,
                streams_text=kind.endswith("-streamed"),
                rung="exact" if kind.endswith("-exact") else "plain",
            )
        return Model(rules, parts, boundary=rules.boundary, device=self.device)
