"""The blocks of a transformer that a pass changes, kernels that it puts into their self-attention, and what a
block is called with."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.graph_parts import changed_by
from rushes.models.phase import PLAIN, Phase, PhaseKernel, PhaseRule
from rushes.models.wan import Wan
from rushes.models.wan_blocks import Block, Call
from rushes.ops.kv_cache import LayerKV
from rushes.passes.base import ClipShape


def transformer(where: str, network: nn.Module) -> Wan:
    """The network itself. Raises `ConfigError` for any other architecture."""
    if not isinstance(network, Wan):
        raise ConfigError(f"{where}: a {type(network).__name__} is no transformer")
    return network


def check_blocks(where: str, wan: Wan) -> None:
    """Raises `ConfigError` where another pass has changed what runs the blocks."""
    if wan.stack is not None or "forward" in vars(wan):
        raise ConfigError(f"{where}: all blocks are one graph of another pass; list one of the two passes")
    for number, block in enumerate(wan.blocks):
        if change := changed_by(cast(Block, block)):
            raise ConfigError(f"{where}: block {number} has {change}; list one of the two passes")


def changed_blocks(where: str, network: Wan, keep_blocks: tuple[int, ...]) -> list[tuple[int, Block]]:
    """Blocks with their numbers, without those to keep. Raises `ConfigError`: no such block, or none left."""
    num_blocks = len(network.blocks)
    for kept in keep_blocks:
        if not -num_blocks <= kept < num_blocks:
            raise ConfigError(f"{where}: block {kept} is to be kept; there are 0 to {num_blocks - 1}, or -1")
    kept_numbers = {number % num_blocks for number in keep_blocks}
    left = [
        (number, cast(Block, block))
        for number, block in enumerate(network.blocks)
        if number not in kept_numbers
    ]
    if not left:
        raise ConfigError(f"{where}: all {num_blocks} blocks are to be kept, so nothing would change")
    return left


def put_kernel(
    where: str,
    network: nn.Module,
    one: PhaseKernel,
    *,
    rule: PhaseRule | None,
    keep_blocks: tuple[int, ...],
) -> Wan:
    """Give self-attention a kernel of a phase, in front of those it has: the pass applied last wins.

    Args:
        rule: says when the kernel's label holds; None for a kernel that runs in every phase.

    Raises:
        ConfigError: another network, a block that is not there, none left, or a kernel that this one would
            leave no step to.
    """
    wan = transformer(where, network)
    for number, block in changed_blocks(where, wan, keep_blocks):
        if one.label is None and block.self_attn.phase_kernels:
            others = ", ".join(str(other.label) for other in block.self_attn.phase_kernels)
            raise ConfigError(
                f"{where}: block {number} would never run {others}; list one of the two, or keep that block"
            )
        block.self_attn.phase_kernels = (one, *block.self_attn.phase_kernels)
    if rule is not None:
        wan.phase_rules = (*wan.phase_rules, rule)
    return wan


def check_share(where: str, field: str, value: float, *, least: float, most: float) -> None:
    """Raises `ConfigError` for a share that is out of range; `least` itself is."""
    if not least < value <= most:
        raise ConfigError(f"{where}: {field} is {value}; needs to be above {least} and at most {most}")


def block_inputs(
    network: Wan, shape: ClipShape, phase: Phase = PLAIN
) -> tuple[Tensor, Tensor, LayerKV, Call]:
    """What `Wan.forward` gives to a block, for a clip of this shape: zeros."""
    device, config, batch = network.head.weight.device, network.config, shape.batch
    states = torch.zeros(batch, shape.text_len, config.text_dim, device=device)
    pooled = torch.zeros(batch, config.pooled_dim, device=device) if config.pooled_dim else None
    context = network.encode_text(states, pooled)
    latents = torch.zeros(batch, *shape.latent_shape, device=device)
    x, time, _ = network.embed(latents, torch.full((batch,), 500.0), context)
    return x, time, (context.keys[0], context.values[0]), network.call_of(latents, phase=phase)
