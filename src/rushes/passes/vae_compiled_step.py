"""`WanVAE.decode_step` as compiled graphs of static shapes, without a graph break."""

from __future__ import annotations

from threading import Lock
from types import FunctionType
from typing import cast

import torch
from torch import Tensor

from rushes.models.wan_vae import DecodeState, DecodeStep, WanVAE
from rushes.ops.layout import channels_last

BACKENDS = ("inductor", "eager")

_Key = tuple[bool, tuple[int, ...], torch.dtype, torch.device, bool, bool]


class CompiledStep:
    """Implements `DecodeStep`: each size has two graphs, made when it is first met and never again.

    A step may be called by several threads; one at a time compiles.
    """

    def __init__(self, vae: WanVAE, backend: str) -> None:
        channels_last(vae.decoder)
        self._backend = backend
        self._lock = Lock()
        self._graphs: dict[_Key, DecodeStep] = {}

    @property
    def num_graphs(self) -> int:
        """Compiled so far."""
        return len(self._graphs)

    def __call__(self, vae: WanVAE, latent: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
        """See `DecodeStep`."""
        # Strides are guarded too: a slice of a clip and a latent of its own would be two graphs.
        latent = latent.contiguous()
        modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        key = (state is None, tuple(latent.shape), latent.dtype, latent.device, *modes)
        graph = self._graphs.get(key)
        if graph is not None:
            return graph(vae, latent, state)
        with self._lock:
            graph = self._graphs.get(key) or self._compiled()
            made = graph(vae, latent, state)
            self._graphs[key] = graph
        return made

    def _compiled(self) -> DecodeStep:
        step: DecodeStep = torch.compile(
            _fresh(cast(FunctionType, WanVAE.plain_step)),
            fullgraph=True,
            dynamic=False,
            backend=self._backend,
        )
        return step


def _fresh(function: FunctionType) -> FunctionType:
    """The same function with a code object of its own. The compiler keeps graphs with the code object, goes
    through them one by one and stops at a limit of a few."""
    copy = FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
