"""Token-routed experts: sigmoid scores, a balance bias that only picks, gates that sum to one.

The bias-balanced sigmoid router is DeepSeek-V3's (arXiv:2412.19437, eq. 12-16). Weights: `up` [E, h, d],
`down` [E, d, h], no bias, tanh GELU. Both kernels return the same sum; the spec is
`rushes.ops.reference.experts_loop`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from rushes.errors import UnknownName


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Where M tokens go.

    Attributes:
        experts: int64 [M, k], the picked experts.
        gates: float32 [M, k], their weights; a row sums to 1.
    """

    experts: Tensor
    gates: Tensor

    def loads(self, num_experts: int) -> Tensor:
        """Tokens per expert, float32 [E]; k * M in all."""
        names = torch.arange(num_experts, device=self.experts.device)
        return (self.experts.reshape(-1, 1) == names).sum(0, dtype=torch.float32)

    def weighed(self, hidden: Tensor, num_experts: int) -> Tensor:
        """Hidden units of all experts [M, E * h], times the gates, 0 for an expert not picked."""
        # Not len(hidden), which an exporter takes for a constant.
        gates = self.gates.new_zeros(hidden.shape[0], num_experts).scatter(1, self.experts, self.gates)
        wide = torch.unflatten(hidden, 1, (num_experts, -1))
        return (wide * gates[..., None].to(hidden.dtype)).flatten(1)


def route(x: Tensor, weight: Tensor, bias: Tensor, top_k: int) -> Routing:
    """Pick `top_k` of E experts for each token: x [M, d], weight [E, d], bias [E], all float32."""
    scores = F.linear(x, weight).sigmoid()
    experts = (scores + bias).detach().topk(top_k, dim=-1).indices
    gates = scores.gather(-1, experts)
    return Routing(experts=experts, gates=gates / gates.sum(-1, keepdim=True))


def experts_grouped(x: Tensor, routing: Routing, up: Tensor, down: Tensor) -> Tensor:
    """Sort the tokens by expert, one grouped matmul up and one down: the work of k experts a token.

    x [M, d] -> [M, d]. Gathers instead of atomic adds, so the result is reproducible on a GPU.
    """
    top_k = routing.experts.shape[1]
    order = routing.experts.flatten().argsort(stable=True)
    ends = routing.loads(up.shape[0]).cumsum(0).to(torch.int32)
    picked = x.index_select(0, order // top_k)
    hidden = F.gelu(_grouped_mm(picked, up.transpose(1, 2), ends), approximate="tanh")
    gates = routing.gates.flatten().index_select(0, order)
    out = _grouped_mm(hidden * gates[:, None].to(hidden.dtype), down.transpose(1, 2), ends)
    return out.index_select(0, order.argsort()).view(-1, top_k, x.shape[1]).sum(1)


def experts_dense(x: Tensor, routing: Routing, up: Tensor, down: Tensor) -> Tensor:
    """All experts as one wide FFN whose hidden units are weighed by the gates, 0 for an expert not picked.

    x [M, d] -> [M, d]. E / k times the work, in two plain matmuls: faster for small experts and under
    torch.compile, where sorting would cost more than it saves.
    """
    hidden = F.gelu(F.linear(x, up.flatten(0, 1)), approximate="tanh")
    return F.linear(routing.weighed(hidden, len(up)), down.transpose(0, 1).flatten(1))


ExpertKernel = Callable[[Tensor, Routing, Tensor, Tensor], Tensor]
EXPERT_KERNELS: dict[str, ExpertKernel] = {"grouped": experts_grouped, "dense": experts_dense}


def expert_kernel(name: str) -> ExpertKernel:
    """The kernel called `name`: grouped, dense, or auto (dense while a gradient is recorded, else grouped).

    Raises:
        UnknownName: no such kernel.
    """
    if name == "auto":
        return experts_dense if torch.is_grad_enabled() else experts_grouped
    if name not in EXPERT_KERNELS:
        raise UnknownName("expert_kernel", name, ["auto", *EXPERT_KERNELS])
    return EXPERT_KERNELS[name]


def _grouped_mm(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """x [M, a] in runs that end at `ends` [E], each times its own matrix of weights [E, a, b]."""
    # The shape rule that torch.compile asks knows bfloat16 only; the kernels know float32 too.
    if torch.compiler.is_compiling() and x.dtype != torch.bfloat16:
        return cast(Tensor, _GROUPED(x, weights, ends))
    return _run_grouped(x, weights, ends)


def _run_grouped(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    if hasattr(F, "grouped_mm"):
        return F.grouped_mm(x, weights, offs=ends)
    return torch._grouped_mm(x, weights, offs=ends)


_GROUPED = torch.library.custom_op(
    "rushes::grouped_mm",
    _run_grouped,
    mutates_args=(),
    schema="(Tensor x, Tensor weights, Tensor ends) -> Tensor",
)


@_GROUPED.register_fake
def _grouped_shape(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weights.shape[2])
