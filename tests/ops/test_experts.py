from __future__ import annotations

import pytest
import torch

from rushes.errors import UnknownName
from rushes.ops.experts import EXPERT_KERNELS, Routing, expert_kernel, experts_dense, experts_grouped, route
from rushes.ops.reference import experts_loop

DIM, EXPERT_DIM = 24, 16


def weights(num_experts: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    up = torch.randn(num_experts, EXPERT_DIM, DIM) / DIM**0.5
    down = torch.randn(num_experts, DIM, EXPERT_DIM) / EXPERT_DIM**0.5
    return up.to(dtype), down.to(dtype)


def routed(num_tokens: int, num_experts: int, top_k: int) -> tuple[torch.Tensor, Routing]:
    x = torch.randn(num_tokens, DIM)
    return x, route(x, torch.randn(num_experts, DIM), 0.1 * torch.randn(num_experts), top_k)


@pytest.mark.parametrize("kernel", sorted(EXPERT_KERNELS))
@pytest.mark.parametrize(
    ("num_tokens", "num_experts", "top_k"), [(37, 8, 2), (3, 8, 1), (20, 3, 3), (1, 5, 2)]
)
def test_equals_the_loop(kernel: str, num_tokens: int, num_experts: int, top_k: int) -> None:
    x, routing = routed(num_tokens, num_experts, top_k)
    up, down = weights(num_experts)
    got = EXPERT_KERNELS[kernel](x, routing, up, down)
    torch.testing.assert_close(got, experts_loop(x, routing, up, down), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", sorted(EXPERT_KERNELS))
def test_bfloat16_stays_near_float32(kernel: str) -> None:
    x, routing = routed(40, 8, 2)
    x = x.bfloat16()
    up, down = weights(8, torch.bfloat16)
    got = EXPERT_KERNELS[kernel](x, routing, up, down)
    want = experts_loop(x.float(), routing, up.float(), down.float())
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).norm() <= 0.01 * want.norm()


@pytest.mark.parametrize("kernel", sorted(EXPERT_KERNELS))
def test_gradients_equal_the_loop(kernel: str) -> None:
    x = torch.randn(30, DIM, requires_grad=True)
    router = torch.randn(6, DIM, requires_grad=True)
    up, down = (w.requires_grad_() for w in weights(6))
    bias, toward = torch.zeros(6), torch.randn(30, DIM)
    leaves = (x, router, up, down)
    gradients = []
    for run in (EXPERT_KERNELS[kernel], experts_loop):
        out = run(x, route(x, router, bias, 2), up, down)
        gradients.append(torch.autograd.grad(out, leaves, toward))
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_idle_expert_costs_nothing_and_breaks_nothing() -> None:
    x = torch.randn(10, DIM)
    bias = torch.tensor([0.0, -10.0, 0.0, 0.0])
    routing = route(x, torch.randn(4, DIM), bias, 2)
    assert routing.loads(4)[1] == 0
    up, down = weights(4)
    want = experts_loop(x, routing, up, down)
    torch.testing.assert_close(experts_grouped(x, routing, up, down), want, atol=1e-5, rtol=1e-5)


def test_bias_picks_and_scores_weigh() -> None:
    x, weight = torch.randn(50, DIM), torch.randn(4, DIM)
    bias = torch.tensor([0.0, 0.0, 5.0, 0.0])
    routing = route(x, weight, bias, 2)
    assert (routing.experts == 2).any(1).all()
    scores = (x @ weight.T).sigmoid().gather(1, routing.experts)
    torch.testing.assert_close(routing.gates, scores / scores.sum(1, keepdim=True))


def test_loads_count_every_pick() -> None:
    _, routing = routed(33, 5, 2)
    want = torch.bincount(routing.experts.flatten(), minlength=5).float()
    torch.testing.assert_close(routing.loads(5), want, rtol=0, atol=0)


def test_auto_is_dense_only_while_gradients_are_recorded() -> None:
    assert expert_kernel("auto") is experts_dense
    with torch.no_grad():
        assert expert_kernel("auto") is experts_grouped


def test_unknown_kernel_suggests() -> None:
    with pytest.raises(UnknownName, match="did you mean 'grouped'"):
        expert_kernel("grouped_mm")
