"""The transformer's blocks, and the VAE's decode step, in another engine on a CPU: OpenVINO or onnxruntime.

In float32: the result differs from PyTorch's by the order of sums. Graphs are made and compiled when the pass
is applied; they take every size, so nothing is left for a first request.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.wan import TextContext
from rushes.models.wan_blocks import Call
from rushes.models.wan_vae import DecodeState, WanVAE
from rushes.passes.base import Part
from rushes.passes.blocks import check_blocks, transformer
from rushes.passes.cpu_engines import Runner, check_engine, open_engine
from rushes.passes.onnx_files import check_exporter, write_decode_step, write_stack
from rushes.passes.vae import plain_vae


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Run all blocks as one graph of an engine. Token experts run as one wide FFN.

    Causal calls, one timestep a frame, router loads and key-value caches stay in PyTorch.

    Attributes:
        engine: openvino or onnxruntime.
        num_threads: 0 for as many as PyTorch has when the pass is applied.
    """

    name: ClassVar[str] = "backend"
    part: ClassVar[Part] = "transformer"
    # Behind compile, whose blocks it refuses.
    order: ClassVar[int] = 91

    engine: str = "openvino"
    num_threads: int = 0

    def __post_init__(self) -> None:
        check_engine(f"pass {self.name}", self.engine, self.num_threads)
        check_exporter(f"pass {self.name}")

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        where = f"pass {self.name}"
        wan = transformer(where, network)
        _check_weights(where, wan, "load the model with dtype float32, or use packed")
        check_blocks(where, wan)
        with tempfile.TemporaryDirectory() as folder:
            file = write_stack(wan, Path(folder))
            wan.stack = EngineStack(open_engine(self.engine, file, self.num_threads), wan.dtype)
        return wan


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeBackend:
    """Run the decode step as two graphs of an engine: a clip's first latent frame, and the others.

    Attributes:
        engine: openvino or onnxruntime.
        num_threads: 0 for as many as PyTorch has when the pass is applied.
    """

    name: ClassVar[str] = "vae-backend"
    part: ClassVar[Part] = "vae"
    # Behind the other passes that replace the step, which it refuses.
    order: ClassVar[int] = 91

    engine: str = "openvino"
    num_threads: int = 0

    def __post_init__(self) -> None:
        check_engine(f"pass {self.name}", self.engine, self.num_threads)
        check_exporter(f"pass {self.name}")

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        vae = plain_vae(self.name, network)
        _check_weights(f"pass {self.name}", vae, "load the model with dtype float32, or use vae-compile")
        with tempfile.TemporaryDirectory() as folder:
            first, following = (
                open_engine(self.engine, file, self.num_threads)
                for file in write_decode_step(vae, Path(folder))
            )
        vae.step = EngineStep(first, following)
        return vae


class EngineStack:
    """Implements `rushes.models.wan.BlockStack`."""

    def __init__(self, run: Runner, dtype: torch.dtype) -> None:
        self._run, self._dtype = run, dtype

    def takes(self, time: Tensor, call: Call) -> bool:
        """See `BlockStack`."""
        is_plain = not (call.is_causal or call.keeps_kv or call.counts_loads)
        return is_plain and time.shape[1] == 1 and call.dtype == self._dtype

    def __call__(self, x: Tensor, time: Tensor, context: TextContext, call: Call) -> Tensor:
        """See `BlockStack`."""
        layers = zip(context.keys, context.values, strict=True)
        text = [one for layer in layers for one in layer]
        return self._run([x, time, call.rope.cos, call.rope.sin, *text])[0]


class EngineStep:
    """Implements `DecodeStep`; a clip's past frames are its own, as in the plain step."""

    def __init__(self, first: Runner, following: Runner) -> None:
        self._first, self._following = first, following

    def __call__(self, vae: WanVAE, latent: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
        """See `DecodeStep`."""
        latent = latent.float()
        if state is None:
            frames, *past = self._first([latent])
        else:
            frames, *past = self._following([latent, *state.past])
        return frames, DecodeState(past=tuple(past))


def _check_weights(where: str, network: nn.Module, instead: str) -> None:
    for name, weight in network.named_parameters():
        if weight.device.type != "cpu":
            raise ConfigError(
                f"{where}: {name} is on {weight.device}; it runs on a CPU only,"
                " on a GPU use compile and vae-fused"
            )
        if weight.dtype != torch.float32:
            raise ConfigError(f"{where}: {name} is {weight.dtype}; {instead}")
