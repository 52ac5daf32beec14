"""What the Wan transformer is made of; shapes and precisions as in `rushes.models.wan`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rushes.models.configs import ExpertsConfig, WanConfig
from rushes.models.phase import PLAIN, GridKernel, Phase, PhaseKernel, PhaseLinear
from rushes.ops.attention import FrameCausal, attention
from rushes.ops.experts import expert_kernel, route
from rushes.ops.kv_cache import LayerKV, join
from rushes.ops.norm import gated_add, layer_norm, modulated_layer_norm, rms_norm
from rushes.ops.patch import Size3
from rushes.ops.precision import float32_island
from rushes.ops.rope import Rope, apply_rope, swap_pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What every block of one forward reads alike.

    Attributes:
        grid: frames, rows and columns of tokens.
        phase: of all samples, see `Wan.phase`.
        is_causal: a token does not see later latent frames, which may lie in a cache.
        keeps_kv: return keys and values, for a cache.
        counts_loads: return the tokens per expert.
    """

    dtype: torch.dtype
    rope: Rope
    mask: FrameCausal | None
    grid: Size3
    phase: Phase = PLAIN
    is_causal: bool = False
    keeps_kv: bool = False
    counts_loads: bool = False


def _linear(layer: nn.Module, x: Tensor, call: Call) -> Tensor:
    out: Tensor = layer(x, call.phase) if isinstance(layer, PhaseLinear) else layer(x)
    return out


class MLP(nn.Module):
    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, dim)
        self.fc2 = nn.Linear(dim, dim)


class SelfAttention(nn.Module):
    """Self-attention with fused QKV, RMS-norm of q and k over the full width, and RoPE."""

    _swap = staticmethod(swap_pairs)

    def __init__(self, config: WanConfig, backend: str) -> None:
        super().__init__()
        self.head_dim, self.backend, self.eps = config.attention_head_dim, backend, config.eps
        self.phase_kernels: tuple[PhaseKernel, ...] = ()
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.norm_q = nn.RMSNorm(config.dim, config.eps)
        self.norm_k = nn.RMSNorm(config.dim, config.eps)
        self.out = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, call: Call, past: tuple[LayerKV, ...]) -> tuple[Tensor, LayerKV | None]:
        """x [B, N, d] -> the same, and this call's roped keys and values if asked for."""
        q, k, v = _linear(self.qkv, x.to(call.dtype), call).chunk(3, dim=-1)
        q = self._rotated(q, self.norm_q.weight, call.rope)
        k = self._rotated(k, self.norm_k.weight, call.rope)
        v = torch.unflatten(v, -1, (-1, self.head_dim))
        kernel = None if call.is_causal else self._phase_kernel(call.phase)
        if kernel is not None:
            out = kernel(q, k, v, call.grid)
        else:
            keys, values = join(past, k, v)
            out = attention(q, keys, values, mask=call.mask, backend=self.backend)
        return _linear(self.out, out.flatten(2), call), (k, v) if call.keeps_kv else None

    def _phase_kernel(self, phase: Phase) -> GridKernel | None:
        for one in self.phase_kernels:
            if one.label is None or one.label in phase:
                return one.kernel
        return None

    def _rotated(self, x: Tensor, weight: Tensor, rope: Rope) -> Tensor:
        heads = torch.unflatten(rms_norm(x, weight, self.eps), -1, (-1, self.head_dim))
        return apply_rope(heads, rope, self._swap).to(x.dtype)


class CrossAttention(nn.Module):
    """Attention to the prompt, whose keys and values come from `encode`."""

    def __init__(self, config: WanConfig, backend: str) -> None:
        super().__init__()
        self.head_dim, self.backend, self.eps = config.attention_head_dim, backend, config.eps
        self.q = nn.Linear(config.dim, config.dim)
        self.kv = nn.Linear(config.dim, 2 * config.dim)
        self.norm_q = nn.RMSNorm(config.dim, config.eps)
        self.norm_k = nn.RMSNorm(config.dim, config.eps)
        self.out = nn.Linear(config.dim, config.dim)

    def encode(self, text: Tensor) -> LayerKV:
        """Embedded text [B, L, d] -> keys and values [B, L, heads, head_dim]."""
        k, v = self.kv(text).chunk(2, dim=-1)
        k = rms_norm(k, self.norm_k.weight, self.eps).to(v.dtype)
        shape = (-1, self.head_dim)
        return torch.unflatten(k, -1, shape), torch.unflatten(v, -1, shape).contiguous()

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, call: Call) -> Tensor:
        """x [B, N, d] -> the same."""
        q = _linear(self.q, x.to(call.dtype), call)
        q = rms_norm(q, self.norm_q.weight, self.eps).to(values.dtype)
        q = torch.unflatten(q, -1, (-1, self.head_dim))
        return _linear(self.out, attention(q, keys, values, backend=self.backend).flatten(2), call)


class GeluLinear(nn.Module):
    """A linear layer that takes the tanh GELU of its input itself."""


class FeedForward(nn.Module):
    """The dense FFN, tanh GELU."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.ffn_dim)
        self.down = nn.Linear(config.ffn_dim, config.dim)

    def forward(self, x: Tensor, call: Call) -> tuple[Tensor, None]:
        """x [B, N, d] -> the same, and no loads."""
        hidden = _linear(self.up, x.to(call.dtype), call)
        if not isinstance(self.down, GeluLinear):
            hidden = F.gelu(hidden, approximate="tanh")
        return _linear(self.down, hidden, call), None


class Experts(nn.Module):
    """Token-routed experts and the shared expert; see `rushes.ops.experts`.

    `router_bias` takes no gradient: a trainer moves it by the loads that `Wan.forward` reports.
    """

    def __init__(self, config: ExpertsConfig, dim: int, kernel: str) -> None:
        super().__init__()
        self.top_k, self.kernel = config.top_k, kernel
        self.router = nn.Linear(dim, config.num_experts, bias=False)
        self.router_bias = nn.Parameter(torch.zeros(config.num_experts), requires_grad=False)
        self.experts_up = random_weight(config.num_experts, config.expert_dim, dim)
        self.experts_down = random_weight(config.num_experts, dim, config.expert_dim)
        self.shared_up = random_weight(config.shared_dim, dim) if config.shared_dim else None
        self.shared_down = random_weight(dim, config.shared_dim) if config.shared_dim else None

    def forward(self, x: Tensor, call: Call) -> tuple[Tensor, Tensor | None]:
        """x float32 [B, N, d] -> the same in the weights' dtype, and the tokens per expert [E] if asked
        for."""
        tokens = x.flatten(0, 1)
        with float32_island(x.device):
            routing = route(tokens, self.router.weight, self.router_bias, self.top_k)
        loads = routing.loads(self.router_bias.numel()) if call.counts_loads else None
        tokens = tokens.to(call.dtype)
        out = expert_kernel(self.kernel)(tokens, routing, self.experts_up, self.experts_down)
        if self.shared_up is not None and self.shared_down is not None:
            hidden = F.gelu(F.linear(tokens, self.shared_up), approximate="tanh")
            out = out + F.linear(hidden, self.shared_down)
        return out.view_as(x), loads


def random_weight(*shape: int) -> nn.Parameter:
    """Normal numbers of variance 1 / inputs; undrawn on the meta device, where a checkpoint's weights follow.

    A draw there is a Python reference of torch's, and loads its compiler: longer than all else of the toy.
    """
    weight = torch.empty(shape)
    if not weight.is_meta:
        weight = weight.normal_() / shape[-1] ** 0.5
    return nn.Parameter(weight)


class Block(nn.Module):
    """Self-attention, cross-attention and FFN, the first and last with adaptive norms and gates."""

    def __init__(self, config: WanConfig, layer: int, attention_backend: str, expert_kernel: str) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn = SelfAttention(config, attention_backend)
        self.cross_attn = CrossAttention(config, attention_backend)
        self.cross_norm = nn.LayerNorm(config.dim, config.eps)
        self.ffn: FeedForward | Experts
        if config.experts is None or layer < config.first_expert_layer:
            self.ffn = FeedForward(config)
        else:
            self.ffn = Experts(config.experts, config.dim, expert_kernel)
        self.modulation = random_weight(6, config.dim)

    def forward(
        self, x: Tensor, time: Tensor, text: LayerKV, call: Call, past: tuple[LayerKV, ...] = ()
    ) -> tuple[Tensor, LayerKV | None, Tensor | None]:
        """x [B, N, d], time [B, S, 1, 6, d], both float32 -> x; this call's roped keys and values, and expert
        loads, if asked for."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.modulation + time).unbind(-2)
        y, kv = self.self_attn(modulated_layer_norm(x, shift, scale, eps=self.eps), call, past)
        x = gated_add(x, y, gate)
        y = layer_norm(x, self.cross_norm.weight, self.cross_norm.bias, eps=self.eps)
        x = x + self.cross_attn(y, *text, call)
        y, loads = self.ffn(modulated_layer_norm(x, ffn_shift, ffn_scale, eps=self.eps), call)
        return gated_add(x, y, ffn_gate), kv, loads
