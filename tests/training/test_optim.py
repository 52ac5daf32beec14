"""The training's own pieces: orthogonal updates, the schedule, averages, the low-precision copy."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from training.checkpoints import load_resume, save_resume
from training.optim import Average, Muon, Shadow, optimisers, orthogonalise, warm_cosine


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (3, 16, 48)])
def test_an_orthogonalised_matrix_has_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape)
    values = torch.linalg.svdvals(orthogonalise(matrix).float())
    assert values.min() > 0.5
    assert values.max() < 1.4
    # the directions stay: U^T X V of the input's own singular vectors is near the identity
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.mT @ orthogonalise(matrix).float() @ vh.mT
    assert (turned.diagonal(dim1=-2, dim2=-1) > 0.5).all()


def test_muon_moves_every_part_of_a_fused_matrix_alike() -> None:
    fused = nn.Parameter(torch.zeros(48, 16))
    fused.grad = torch.cat([torch.randn(16, 16) * scale for scale in (1.0, 100.0, 1e-2)])
    Muon([fused], lr=1.0, weight_decay=0.0).step()
    norms = fused.detach().unflatten(0, (3, 16)).flatten(1).norm(dim=1)
    assert norms.max() / norms.min() < 1.3


def test_matrices_go_to_muon_and_the_rest_to_adamw() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Conv3d(16, 16, 3), nn.Linear(64, 64))
    muon, adam = optimisers(model, 1e-3, edges=("2.",))
    shapes = [sorted(p.ndim for p in o.param_groups[0]["params"]) for o in (muon, adam)]
    assert shapes == [[2, 5], [1, 1, 1, 2]]


def test_the_schedule_rises_falls_and_ends_at_its_floor() -> None:
    assert [warm_cosine(p, warm=0.1) for p in (0.0, 0.05, 0.1)] == [0.0, 0.5, 1.0]
    assert warm_cosine(0.55, warm=0.1) == pytest.approx(0.5)
    assert warm_cosine(1.0, warm=0.1, floor=0.2) == pytest.approx(0.2)


def test_a_shadow_computes_and_the_original_learns() -> None:
    original = nn.Linear(8, 8)
    shadow = Shadow(original, fast := copy.deepcopy(original).bfloat16())
    fast(torch.randn(4, 8).bfloat16()).square().sum().backward()
    shadow.take_gradients()
    assert original.weight.grad is not None
    assert original.weight.grad.dtype == torch.float32
    assert fast.weight.grad is None
    with torch.no_grad():
        original.weight.add_(1.0)
    shadow.refresh()
    assert torch.equal(fast.weight, original.weight.bfloat16())


def test_a_resumed_run_finds_its_weights_average_step_and_random_state(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(128, 96), nn.Linear(96, 7))
    average = Average(model, 0.9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn_like(p))
    save_resume(tmp_path, model, average, step=41)
    wanted = torch.rand(3)
    again = nn.Sequential(nn.Linear(128, 96), nn.Linear(96, 7))
    other = Average(again, 0.9)
    assert load_resume(tmp_path, again, other) == 41
    assert torch.equal(torch.rand(3), wanted)
    for name, tensor in model.state_dict().items():
        assert (again.state_dict()[name] - tensor).norm() < 0.03 * tensor.norm()
        assert (other.state[name] - average.state[name]).norm() < 0.01 * average.state[name].norm()
