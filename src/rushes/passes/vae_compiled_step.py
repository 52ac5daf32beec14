"""`WanVAE.decode_step` as compiled graphs, on a CPU with packed convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rushes.models.wan_vae import DecodeState, WanVAE
from rushes.models.wan_vae_blocks import TimeConv3d
from rushes.ops.layout import channels_last
from rushes.ops.packed import can_pack, pack_conv, packed_conv
from rushes.passes.static_graphs import StaticGraphs

BACKENDS = ("inductor", "eager")
TYPICAL = (12, 16)
"""Rows and columns of a latent frame, for which convolutions are packed; with others they may be slower."""


class CompiledStep:
    """Implements `DecodeStep`: each size has two graphs."""

    def __init__(self, vae: WanVAE, backend: str) -> None:
        channels_last(vae.decoder)
        if can_pack(vae.post_quant_conv.weight):
            _pack(vae)
        self._graphs = StaticGraphs(WanVAE.plain_step, backend)

    @property
    def num_graphs(self) -> int:
        """Compiled so far."""
        return len(self._graphs)

    def __call__(self, vae: WanVAE, latent: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
        """See `DecodeStep`."""
        # Graphs are of these strides, and a slice of a clip has others.
        latent = latent.contiguous()
        key = (state is None, tuple(latent.shape), latent.dtype, latent.device)
        made: tuple[Tensor, DecodeState] = self._graphs(key, vae, latent, state)
        return made


class _PackedConv(nn.Module):
    """A `TimeConv3d`, or a `Conv2d` as it is: stride 1."""

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, size: Sequence[int]) -> None:
        super().__init__()
        self.padding = tuple(int(pad) for pad in conv.padding)
        self.weight, self.bias = pack_conv(conv.weight, self.padding, size), conv.bias

    def forward(self, x: Tensor) -> Tensor:
        if len(self.padding) == 3:
            return packed_conv(x, self.weight, self.bias, self.padding)
        return packed_conv(x.movedim(1, -1), self.weight, self.bias, self.padding).movedim(-1, 1)


@torch.no_grad()
def _pack(vae: WanVAE) -> None:
    sizes: dict[nn.Module, Sequence[int]] = {}

    def see(conv: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0]
        sizes[conv] = (x.movedim(-1, 1) if isinstance(conv, TimeConv3d) else x).shape

    layers = [
        (parent, name, conv)
        for parent in vae.decoder.modules()
        for name, conv in parent.named_children()
        if isinstance(conv, (TimeConv3d, nn.Conv2d))
    ]
    hooks = [conv.register_forward_pre_hook(see) for _, _, conv in layers]
    latent = vae.post_quant_conv.weight.new_zeros(1, vae.config.z_dim, 1, *TYPICAL)
    vae.plain_step(latent, vae.plain_step(latent)[1])
    for hook in hooks:
        hook.remove()
    for parent, name, conv in layers:
        setattr(parent, name, _PackedConv(conv, sizes[conv]))
