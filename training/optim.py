"""Muon for matrices, AdamW for the rest, a schedule in seconds, and an exponential moving average.

Muon: Jordan et al. 2024, github.com/KellerJordan/Muon; the update's scale 0.2*sqrt(max(out, in)) is that of
Moonlight, arXiv:2502.16982, so that both optimisers share one learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# quintic iteration towards the polar factor; coefficients of the reference
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, roughly: all singular values near 1. [..., out, in] -> the same."""
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. Matrices that fuse several (QKV) are split into squares first."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                nesterov = p.grad.lerp(state["momentum"], group["momentum"])
                by_shape.setdefault(p.shape, []).append((p, nesterov))
            for pairs in by_shape.values():
                self._update(pairs, group["lr"], group["weight_decay"])

    @staticmethod
    def _update(pairs: list[tuple[Tensor, Tensor]], lr: float, weight_decay: float) -> None:
        """One batched orthogonalisation for all matrices of a shape; a kernel is a matrix [out, rest]."""
        shape = pairs[0][0].shape
        stack = torch.stack([g.flatten(1) if len(shape) > 3 else g for _, g in pairs])
        out, width = stack.shape[-2:]
        parts = out // width if len(shape) == 2 and out % width == 0 else 1
        parts = parts if parts in (2, 3) else 1
        direction = orthogonalise(stack.unflatten(-2, (parts, out // parts))).flatten(-3, -2).float()
        scale = 0.2 * math.sqrt(max(out // parts, width))
        for (p, _), update in zip(pairs, direction.unbind(), strict=True):
            p.mul_(1 - lr * weight_decay).add_(update.reshape(shape), alpha=-lr * scale)


def optimisers(model: nn.Module, lr: float, *, edges: tuple[str, ...]) -> list[torch.optim.Optimizer]:
    """Muon on the inner matrices, AdamW on vectors and on the edge layers whose names hold a word of
    `edges`."""
    inner, rest = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            is_matrix = p.ndim >= 2 and p.numel() >= 4096 and min(p.shape[:2]) >= 8
            (inner if is_matrix and not any(edge in name for edge in edges) else rest).append(p)
    adam = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=rest[0].is_cuda)
    return [Muon(inner, lr=lr), adam]


def warm_cosine(progress: float, *, warm: float = 0.02, floor: float = 0.0) -> float:
    """Factor of the learning rate at `progress` in [0, 1] of the run."""
    if progress < warm:
        return progress / warm
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min((progress - warm) / (1 - warm), 1.0)))


def set_rate(group: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """One learning rate for all."""
    for optimiser in group:
        for parameters in optimiser.param_groups:
            parameters["lr"] = lr


class Average:
    """Exponential moving average of a model's parameters and buffers, in float32."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone().float() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model; the first steps move faster, so that the start is forgotten."""
        weight = 1 - min(self.decay, (step + 1) / (step + 10))
        current = model.state_dict()
        averages = [self.state[name] for name in current]
        torch._foreach_lerp_(averages, [tensor.float() for tensor in current.values()], weight)


class Shadow:
    """A copy of a model in the dtypes it serves in, which does the arithmetic; the float32 original is what
    the optimiser moves. Gradients go one way, weights the other."""

    def __init__(self, original: nn.Module, copy: nn.Module) -> None:
        pairs = zip(original.parameters(), copy.parameters(), strict=True)
        self._pairs = [(a, b) for a, b in pairs if a.requires_grad]
        self._rest = [
            (a, b)
            for a, b in zip(original.parameters(), copy.parameters(), strict=True)
            if not a.requires_grad
        ]

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Move the copy's gradients to the original, in float32."""
        for original, copy in self._pairs:
            original.grad = None if copy.grad is None else copy.grad.float()
            copy.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the copy the original's weights."""
        pairs = self._pairs + self._rest
        torch._foreach_copy_([copy for _, copy in pairs], [original for original, _ in pairs])
