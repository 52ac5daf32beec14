"""`WanVAE.decode_step` as compiled graphs, on a CPU with packed convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from rushes.models.wan_vae import DecodeState, WanVAE
from rushes.models.wan_vae_blocks import TimeConv3d
from rushes.ops.layout import channels_last
from rushes.ops.packed import can_pack, pack_conv, packed_conv
from rushes.passes.static_graphs import StaticGraphs

BACKENDS = ("inductor", "eager")


class CompiledStep:
    """Implements `DecodeStep`: each size has two graphs."""

    def __init__(self, vae: WanVAE, backend: str) -> None:
        channels_last(vae.decoder)
        if can_pack(vae.post_quant_conv.weight):
            _pack(vae.decoder)
        self._graphs = StaticGraphs(WanVAE.plain_step, backend)

    @property
    def num_graphs(self) -> int:
        """Compiled so far."""
        return len(self._graphs)

    def __call__(self, vae: WanVAE, latent: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
        """See `DecodeStep`."""
        # Strides are guarded too: a slice of a clip and a latent of its own would be two graphs.
        latent = latent.contiguous()
        key = (state is None, tuple(latent.shape), latent.dtype, latent.device)
        made: tuple[Tensor, DecodeState] = self._graphs(key, vae, latent, state)
        return made


class _PackedConv(nn.Module):
    """A `TimeConv3d`, or a `Conv2d` as it is: stride 1."""

    def __init__(self, conv: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.padding = tuple(int(pad) for pad in conv.padding)
        self.weight, self.bias = pack_conv(conv.weight, self.padding), conv.bias

    def forward(self, x: Tensor) -> Tensor:
        if len(self.padding) == 3:
            return packed_conv(x, self.weight, self.bias, self.padding)
        return packed_conv(x.movedim(1, -1), self.weight, self.bias, self.padding).movedim(-1, 1)


def _pack(decoder: nn.Module) -> None:
    for parent in list(decoder.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, (TimeConv3d, nn.Conv2d)):
                setattr(parent, name, _PackedConv(conv))
