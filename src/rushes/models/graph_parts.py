"""The parts of a model that other engines run, as functions of tensors alone: what an exporter traces.

Shapes as in `rushes.models.wan` and `rushes.models.wan_vae`; nothing of a job is kept, past frames of a
decoding clip come in and go out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rushes.models.phase import PhaseLinear
from rushes.models.wan import Wan
from rushes.models.wan_blocks import Block, Call, CrossAttention, Experts, FeedForward, SelfAttention
from rushes.models.wan_vae import DecodeState, WanVAE
from rushes.models.wan_vae_blocks import TimeConv3d
from rushes.ops.rope import Rope, swap_pairs_by_product

M = TypeVar("M", bound=nn.Module)

_PLAIN = (Block, SelfAttention, CrossAttention, FeedForward, Experts, nn.Linear, nn.RMSNorm, nn.LayerNorm)
"""Of what a block consists as long as no pass has changed it."""


class _SwappingSelfAttention(SelfAttention):
    _swap = staticmethod(swap_pairs_by_product)


class BlockPart(nn.Module):
    """One block, bidirectional and in no phase; token experts are one wide FFN (`experts_dense`).

    `block` is a copy of what was given, with the same weights.

    Args:
        swaps_by_product: RoPE as other engines are quickest at it; the block is float32.
    """

    def __init__(self, block: Block, *, swaps_by_product: bool = True) -> None:
        super().__init__()
        self.block: Block = _sharing_weights(block)
        if swaps_by_product:
            self.block.self_attn.__class__ = _SwappingSelfAttention
        if isinstance(self.block.ffn, Experts):
            self.block.ffn.kernel = "dense"

    def forward(
        self, x: Tensor, time: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """x [B, N, d], time [B, 1, 1, 6, d], cos and sin [N, head_dim], keys and values
        [B, L, heads, head_dim] -> x."""
        # The grid is read by kernels of a phase only.
        call = Call(dtype=values.dtype, rope=Rope(cos=cos, sin=sin), mask=None, grid=(1, 1, 1))
        out: Tensor = self.block(x, time, (keys, values), call)[0]
        return out


class _WholeConv3d(TimeConv3d):
    """Left whole for the other engine: the sum over taps is what suits PyTorch on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        x = F.conv3d(input.movedim(-1, 1), self.weight, self.bias, self.stride, self.padding)
        return x.movedim(1, -1)


class FirstStepPart(nn.Module):
    """`WanVAE.plain_step` of a clip's first latent frame: latent -> frames and the past frames.

    `vae` is a copy of what was given, with the same weights.
    """

    def __init__(self, vae: WanVAE) -> None:
        super().__init__()
        self.vae: WanVAE = _sharing_weights(vae)
        for module in self.vae.modules():
            if isinstance(module, TimeConv3d):
                module.__class__ = _WholeConv3d

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        """latent [B, z, 1, h, w]."""
        frames, state = self.vae.plain_step(latent)
        return frames, *state.past


class NextStepPart(FirstStepPart):
    """`WanVAE.plain_step` of every other latent frame: latent and past frames -> frames and past frames."""

    def forward(self, latent: Tensor, past: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """latent [B, z, 1, h, w]; past as the step before returned it."""
        frames, state = self.vae.plain_step(latent, DecodeState(past=tuple(past)))
        return frames, *state.past


def _sharing_weights(module: M) -> M:
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})


def changed_by(block: Block) -> str | None:
    """What a pass has left in a block that is no part of the plain network; None for a plain one."""
    for module in block.modules():
        if isinstance(module, PhaseLinear) or type(module) not in _PLAIN:
            return f"a {type(module).__name__}"
        if "forward" in vars(module):
            return "a forward of another pass"
    return "a kernel of another pass" if block.self_attn.phase_kernels else None


def block_example(network: Wan) -> tuple[Tensor, ...]:
    """Small inputs of a `BlockPart` of this network; sizes differ from each other, none is 1."""
    config, device = network.config, network.head.weight.device
    batch, num_tokens, text_len = 2, 6, 5
    heads, head_dim = config.num_attention_heads, config.attention_head_dim
    # Tensors of their own: an exporter takes one that is given twice for one input.
    text, table = (batch, text_len, heads, head_dim), (num_tokens, head_dim)
    shapes = ((batch, num_tokens, config.dim), (batch, 1, 1, 6, config.dim), table, table)
    states = [torch.zeros(shape, device=device) for shape in shapes]
    return (*states, *(torch.zeros(text, device=device) for _ in range(2)))
