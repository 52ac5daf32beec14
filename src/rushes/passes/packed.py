"""The transformer as one compiled graph whose weights are packed for oneDNN's kernels, on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.graph_parts import BlockPart
from rushes.models.phase import PLAIN, Phase
from rushes.models.wan import TextContext, Wan
from rushes.models.wan_blocks import Block, Call, Experts
from rushes.ops.experts import route
from rushes.ops.packed import can_pack, pack_linear, packed_linear
from rushes.ops.precision import float32_island
from rushes.passes.base import ClipShape, Part
from rushes.passes.blocks import check_blocks, transformer
from rushes.passes.compile import check_compiler
from rushes.passes.static_graphs import StaticGraphs


class PackedLinear(nn.Module):
    """`nn.Linear` of this weight [N, K]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> None:
        super().__init__()
        self.weight, self.bias, self.activation = pack_linear(weight), bias, activation

    def forward(self, x: Tensor) -> Tensor:
        return packed_linear(x, self.weight, self.bias, self.activation)


class PackedExperts(nn.Module):
    """`Experts` as one wide FFN (`experts_dense`), the shared expert's `up` in the same product."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.router, self.router_bias, self.top_k = experts.router, experts.router_bias, experts.top_k
        up, down = experts.experts_up, experts.experts_down
        shared_up, shared_down = experts.shared_up, experts.shared_down
        rows = up.flatten(0, 1)
        self.num_wide = len(rows)
        self.up = PackedLinear(rows if shared_up is None else torch.cat([rows, shared_up]), activation="gelu")
        self.down = PackedLinear(down.transpose(0, 1).flatten(1))
        self.shared_down = None if shared_down is None else PackedLinear(shared_down)

    def forward(self, x: Tensor, call: Call) -> tuple[Tensor, Tensor | None]:
        """See `Experts`."""
        tokens = x.flatten(0, 1)
        with float32_island(x.device):
            routing = route(tokens, self.router.weight, self.router_bias, self.top_k)
        hidden = self.up(tokens.to(call.dtype))
        num_experts = self.router_bias.numel()
        out = self.down(routing.weighed(hidden[:, : self.num_wide], num_experts))
        if self.shared_down is not None:
            out = out + self.shared_down(hidden[:, self.num_wide :])
        return out.view_as(x), routing.loads(num_experts) if call.counts_loads else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Run the whole network as one graph of Inductor, made for each size. Token experts run as one wide FFN.

    Causal calls, key-value caches, timesteps by token and router loads stay as they were, with plain weights.

    Attributes:
        compiler: inductor; eager traces only, for tests.
    """

    name: ClassVar[str] = "packed"
    part: ClassVar[Part] = "transformer"
    # Behind compile, whose blocks it refuses.
    order: ClassVar[int] = 91

    compiler: str = "inductor"

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        where = f"pass {self.name}"
        wan = transformer(where, network)
        for name, weight in wan.named_parameters():
            if not can_pack(weight):
                raise ConfigError(
                    f"{where}: oneDNN here packs no {name}, {weight.dtype} on {weight.device}; use compile"
                )
        check_compiler(torch.device("cpu"), where)
        check_blocks(where, wan)
        wan.forward = _PackedForward(wan, self.compiler)  # type: ignore[method-assign]
        return wan

    @torch.no_grad()
    def warm_up(self, network: nn.Module, shape: ClipShape) -> None:
        """See `WarmsUp`."""
        wan = transformer(f"pass {self.name}", network)
        states = torch.zeros(shape.batch, shape.text_len, wan.config.text_dim)
        pooled = torch.zeros(shape.batch, wan.config.pooled_dim) if wan.config.pooled_dim else None
        latents, timestep = torch.zeros(shape.batch, *shape.latent_shape), torch.full((shape.batch,), 500.0)
        wan(latents, timestep, wan.encode_text(states, pooled))


class _PackedForward:
    """Stands for `Wan.forward`."""

    def __init__(self, network: Wan, compiler: str) -> None:
        self._network = network
        self._parts = [_packed(cast(Block, block)) for block in network.blocks]
        self._graphs = StaticGraphs(_run, compiler)

    def __call__(
        self, latents: Tensor, timestep: Tensor, context: TextContext, *, phase: Phase = PLAIN, **special: Any
    ) -> Tensor:
        # A phase changes nothing where no kernel of a pass has been put.
        if not all(value is None or value is False for value in special.values()) or timestep.ndim > 1:
            return Wan.forward(self._network, latents, timestep, context, phase=phase, **special)
        # A slice of a batch has other strides.
        latents = latents.contiguous()
        key = (latents.shape, latents.dtype, context.keys[0].shape)
        made: Tensor = self._graphs(key, self._network, self._parts, latents, timestep, context)
        return made


def _run(
    network: Wan, parts: Sequence[BlockPart], latents: Tensor, timestep: Tensor, context: TextContext
) -> Tensor:
    call = network.call_of(latents)
    x, time, embedding = network.embed(latents, timestep, context)
    for part, keys, values in zip(parts, context.keys, context.values, strict=True):
        x = part(x, time, call.rope.cos, call.rope.sin, keys, values)
    return network.read_out(x, embedding, call.grid)


def _packed(plain: Block) -> BlockPart:
    part = BlockPart(plain, swaps_by_product=False)  # the compiler fuses a flip
    block = part.block
    if isinstance(block.ffn, Experts):
        block.ffn = PackedExperts(block.ffn)  # type: ignore[assignment]
    for parent in list(block.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) and name not in ("router", "kv"):
                setattr(parent, name, PackedLinear(layer.weight, layer.bias))
    return part
