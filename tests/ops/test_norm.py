from __future__ import annotations

import pytest
import torch

from rushes.ops.norm import gated_add, modulated_layer_norm, rms_norm


@pytest.mark.parametrize("num_groups", [1, 3, 12])
def test_modulation_is_shared_by_the_tokens_of_a_group(num_groups: int) -> None:
    x, y = torch.randn(2, 12, 8), torch.randn(2, 12, 8)
    shift, scale, gate = torch.randn(3, 2, num_groups, 1, 8).unbind(0)
    every = [m[:, :, 0].repeat_interleave(12 // num_groups, dim=1) for m in (shift, scale, gate)]
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    got = modulated_layer_norm(x, shift, scale, eps=1e-6)
    torch.testing.assert_close(got, normed * (1 + every[1]) + every[0])
    torch.testing.assert_close(gated_add(x, y, gate), x + y * every[2])


def test_residual_stays_float32_under_a_bfloat16_branch() -> None:
    x, y, gate = torch.randn(1, 4, 8), torch.randn(1, 4, 8).bfloat16(), torch.randn(1, 1, 1, 8)
    got = gated_add(x, y, gate)
    torch.testing.assert_close(got, x + y.float() * gate[:, 0])


def test_rms_norm_of_bfloat16_is_computed_in_float32() -> None:
    x, weight = torch.randn(3, 40).bfloat16(), torch.randn(40)
    want = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    torch.testing.assert_close(rms_norm(x, weight, 1e-6).double(), want, atol=1e-6, rtol=1e-6)
