"""A text encoder that runs on a device while its weights stay in host memory.

UMT5-XXL weighs 11.4 GB in bfloat16 and works for 0.03 s a prompt: on a card that is short of memory its
blocks lie in pinned host memory and are copied to the device one after another, each as the encoder reaches
it and only for as long as it runs. The token embedding, of which a prompt reads 512 rows, is looked up on the
host. Copy and work share the caller's stream: no block is read before it is there, and the next one takes its
place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def stream_from_host(encoder: nn.Module, device: torch.device) -> None:
    """Let a UMT5 encoder (`rushes.models.umt5.build_umt5`) run on `device` out of host memory, where its
    weights are moved if they are elsewhere."""
    stack = encoder.get_submodule("encoder")
    embedding = stack.get_submodule("embed_tokens")
    token_weights = embedding.get_parameter("weight")
    token_weights.data = token_weights.data.cpu()
    embedding.register_forward_pre_hook(lambda module, args: tuple(each.cpu() for each in args))
    embedding.register_forward_hook(lambda module, args, states: states.to(device))
    for block in stack.get_submodule("block").children():
        _Streamed(block, device)
    stack.get_submodule("final_layer_norm").to(device)


class _Streamed:
    """One block, whose parameters are on the device during its calls and on the host otherwise."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        self._device = device
        self._host = [
            (parameter, _on_host(parameter.data, pin=device.type == "cuda"))
            for parameter in block.parameters()
        ]
        self._leave()
        block.register_forward_pre_hook(self._come)
        # An encoder that runs out of memory has to leave, too.
        block.register_forward_hook(self._leave, always_call=True)

    @torch.inference_mode(mode=False)  # a parameter cannot take the data of an inference tensor
    def _come(self, *_: Any) -> None:
        for parameter, host in self._host:
            parameter.data = host.to(self._device, non_blocking=True, copy=True)

    @torch.inference_mode(mode=False)
    def _leave(self, *_: Any) -> None:
        for parameter, host in self._host:
            parameter.data = host


def _on_host(weight: Tensor, *, pin: bool) -> Tensor:
    return torch.empty_like(weight, device="cpu", pin_memory=pin).copy_(weight)
