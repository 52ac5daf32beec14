from __future__ import annotations

import pytest
import torch

from rushes.sampling.guidance import cfg, is_high_noise


def test_cfg() -> None:
    cond, uncond = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(cfg(cond, uncond, 4.0), 4 * cond - 3 * uncond)
    torch.testing.assert_close(cfg(cond, uncond, 1.0), cond)
    assert torch.equal(cfg(cond, uncond, 0.0), uncond)


@pytest.mark.parametrize(
    ("timestep", "is_high"), [(999.0, True), (875.0, True), (874.0, False), (1.0, False)]
)
def test_the_boundary_belongs_to_the_high_noise_expert(timestep: float, is_high: bool) -> None:
    assert is_high_noise(timestep, 0.875) == is_high


def test_one_expert_is_always_high() -> None:
    assert is_high_noise(0.1, None)
