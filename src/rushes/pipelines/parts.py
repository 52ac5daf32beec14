"""The parts of a checkpoint folder, each loaded when first asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property

import torch

from rushes.models import wan, wan_vae
from rushes.models.checkpoint import Checkpoint, Expert, transformer_folder
from rushes.models.configs import WanConfig, WanVAEConfig
from rushes.models.expert_pair import ExpertPair, OneExpert
from rushes.models.headers import read_json
from rushes.models.lora import fuse, read_lora
from rushes.models.revision import revision
from rushes.models.text import TextEncoder
from rushes.passes.base import ClipShape
from rushes.passes.plan import Plan
from rushes.trace import traced


class CheckpointParts:
    """Implements `rushes.pipelines.base.Parts` for a folder: what a call does not need is never read.

    Args:
        device: where the networks run.
        dtype: of their weights, float32 islands aside.
        plan: the passes that each network goes through once it is loaded.
        streams_text: the text encoder's weights stay in host memory (`rushes.models.streamed`).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        plan: Plan | None = None,
        *,
        streams_text: bool = False,
    ) -> None:
        self._checkpoint = checkpoint
        self._plan = plan or Plan()
        self._device = device
        self._dtype = dtype
        self._experts: dict[str | None, ExpertPair] = {}
        self._streams_text = streams_text
        self._networks: list[wan.Wan] = []
        self._shapes: list[ClipShape] = []
        self._lock = threading.Lock()
        to_come = {"vae"} if streams_text else {"vae", "text_encoder"}
        self._to_come = to_come & checkpoint.parts.keys()

    @cached_property
    def transformer_config(self) -> WanConfig:
        """See `Parts`. Of a folder that holds only the low-noise expert, that one's."""
        layout = self._checkpoint.layout
        high, low = (
            transformer_folder(self._checkpoint.folder, layout, expert) for expert in ("high", "low")
        )
        file = (high if (high / "config.json").is_file() else low) / "config.json"
        return wan.config_from_dict(read_json(file), layout)

    @cached_property
    def vae_config(self) -> WanVAEConfig:
        """See `Parts`. Without a VAE, the published one of the model: latents need its strides."""
        file = self._checkpoint.folder / "vae" / "config.json"
        if self._checkpoint.layout == "diffusers" and file.is_file():
            return wan_vae.config_from_dict(read_json(file), "diffusers")
        return wan_vae.WAN22_VAE if self._checkpoint.pipeline == "wan2.2-ti2v-5b" else wan_vae.WAN21_VAE

    @cached_property
    def identity(self) -> str:
        """See `Parts`. LoRA files of the folder count too."""
        checkpoint = self._checkpoint
        parts = [self._revision_of(name) for name in sorted(checkpoint.parts)]
        loras = revision(checkpoint.folder.glob("*.safetensors"))
        plan = [self._plan.identity] if self._plan.identity else []
        return "-".join(
            [checkpoint.pipeline, str(checkpoint.boundary.value), str(self._dtype), *parts, loras, *plan]
        )

    @cached_property
    def encoder_revision(self) -> str:
        """See `Parts`."""
        names = [name for name in ("text_encoder", "tokenizer") if name in self._checkpoint.parts]
        return "-".join([str(self._dtype), *(self._revision_of(name) for name in names)])

    @property
    def loras(self) -> Sequence[str]:
        """See `Parts`. As the folder is now."""
        return sorted(file.name for file in self._checkpoint.folder.glob("*.safetensors"))

    def experts(self, lora: str | None = None) -> ExpertPair:
        """See `Parts`."""
        if lora not in self._experts:
            self._experts[lora] = self._load_experts(lora)
        return self._experts[lora]

    def vae(self) -> wan_vae.WanVAE:
        """See `Parts`."""
        return self._vae

    def text_encoder(self) -> TextEncoder:
        """See `Parts`."""
        return self._text_encoder

    def expect(self, shapes: Sequence[ClipShape]) -> None:
        """See `Parts`."""
        with self._lock:
            new = [shape for shape in dict.fromkeys(shapes) if shape not in self._shapes]
            self._shapes += new
            for network in self._networks:
                self._warm_up(network, new)
        for shape in new if "_vae" in vars(self) else ():
            self._plan.warm_up("vae", self._vae, shape)

    def bytes_to_come(self) -> int:
        """Device memory that the VAE and the text encoder will take, where they are not loaded yet."""
        values = sum(self._checkpoint.parts[name].num_parameters for name in self._to_come)
        return values * self._dtype.itemsize

    def _revision_of(self, name: str) -> str:
        return self._checkpoint.parts[name].revision

    @traced("weights", part="transformer")
    def _load_experts(self, lora: str | None) -> ExpertPair:
        if lora is None:
            return self._checkpoint.load_experts(
                self._device, self._dtype, reserved=self.bytes_to_come(), change=self._changed
            )
        assert self._checkpoint.boundary.value is None, "a LoRA of two noise experts would be two files"
        tensors = read_lora(self._checkpoint.folder / lora)
        # Fused in float32: rounded once, not before and after.
        fused = self._checkpoint.load_transformer("high", self._device, torch.float32)
        fuse(fused, tensors, wan.sources(fused.config, self._checkpoint.layout))
        return OneExpert(self._changed(wan.cast_weights(fused, self._dtype), "high"))

    def _changed(self, network: wan.Wan, expert: Expert) -> wan.Wan:
        is_only = self._checkpoint.boundary.value is None
        changed = self._plan.apply("transformer", network, "only" if is_only else expert)
        with self._lock:
            self._networks.append(changed)
            self._warm_up(changed, self._shapes)
        return changed

    def _warm_up(self, network: wan.Wan, shapes: Sequence[ClipShape]) -> None:
        if network.head.weight.device.type != self._device.type:
            return  # its weights only wait here, for the other noise expert's module
        for shape in shapes:
            self._plan.warm_up("transformer", network, shape)

    @cached_property
    @traced("weights", part="vae")
    def _vae(self) -> wan_vae.WanVAE:
        vae = self._plan.apply("vae", self._checkpoint.load_vae(self._device, self._dtype))
        for shape in self._shapes:
            self._plan.warm_up("vae", vae, shape)
        self._to_come.discard("vae")
        return vae

    @cached_property
    @traced("weights", part="text_encoder")
    def _text_encoder(self) -> TextEncoder:
        encoder = self._checkpoint.load_text_encoder(self._device, self._dtype, streamed=self._streams_text)
        self._to_come.discard("text_encoder")
        return encoder
