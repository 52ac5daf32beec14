from __future__ import annotations

import pytest
import torch

from rushes.pipelines.rules import load_rules, resolve
from rushes.sampling.guidance import cfg, guidance_scale, is_high_noise


def test_cfg() -> None:
    cond, uncond = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(cfg(cond, uncond, 4.0), 4 * cond - 3 * uncond)
    torch.testing.assert_close(cfg(cond, uncond, 1.0), cond)
    assert torch.equal(cfg(cond, uncond, 0.0), uncond)


@pytest.mark.parametrize(("timestep", "scale"), [(999.0, 4.0), (875.0, 4.0), (874.0, 3.0), (1.0, 3.0)])
def test_scale_follows_the_expert(timestep: float, scale: float) -> None:
    rules = load_rules("wan2.2-t2v-a14b")
    assert guidance_scale(resolve(rules, "a dog").sampling, timestep, rules.boundary) == scale


def test_one_expert_is_always_high() -> None:
    assert is_high_noise(0.1, None)
