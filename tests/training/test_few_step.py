"""The few-step distillation: low-rank updates learn as if they were layers of their own."""

from __future__ import annotations

import torch
from training.few_step import LowRank, teach

from rushes.sampling.schedules import uniform_schedule


def test_low_rank_gradients_are_autograds() -> None:
    weight = torch.randn(24, 40)
    update = LowRank(weight)
    with torch.no_grad():
        update.b.normal_()
    x, target = torch.randn(7, 40), torch.randn(7, 24)
    (x @ (weight + update.b @ update.a).T - target).square().mean().backward()
    expected = update.a.grad, update.b.grad
    update.a.grad = update.b.grad = None
    whole = (weight + (update.b @ update.a).detach()).requires_grad_(True)
    (x @ whole.T - target).square().mean().backward()
    assert whole.grad is not None
    update.take_gradient(whole.grad)
    torch.testing.assert_close((update.a.grad, update.b.grad), expected)


def test_an_update_starts_at_nothing() -> None:
    update = LowRank(torch.randn(24, 40))
    assert not (update.b @ update.a).any()


def test_the_teacher_goes_over_a_quarter_of_the_schedule_with_guidance() -> None:
    sigmas = torch.tensor(uniform_schedule(20, 3.0).sigmas)
    start = torch.tensor([0, 15])
    x = torch.zeros(2, 1, 1, 1, 1)

    def teacher(x: torch.Tensor, timestep: torch.Tensor, text: float) -> torch.Tensor:
        return torch.full_like(x, text)

    end = teach(teacher, x, start, sigmas, (2.0, 1.0), 3.0)  # type: ignore[arg-type]
    velocity = 1.0 + 3.0 * (2.0 - 1.0)
    torch.testing.assert_close(end.flatten(), velocity * (sigmas[start + 5] - sigmas[start]))
