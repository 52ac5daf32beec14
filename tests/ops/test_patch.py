from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rushes.ops.patch import patchify, unpatchify


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 1, 3), (1, 1, 1)])
def test_patchify_reads_what_a_strided_convolution_reads(patch: tuple[int, int, int]) -> None:
    latents, weight = torch.randn(2, 5, 4, 6, 6), torch.randn(7, 5, *patch)
    want = F.conv3d(latents, weight, stride=patch).flatten(2).transpose(1, 2)
    got = patchify(latents, patch) @ weight.flatten(1).T
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_unpatchify_puts_every_token_back() -> None:
    latents, patch, grid = torch.randn(2, 5, 3, 4, 6), (1, 2, 2), (3, 2, 3)
    channels_last = torch.unflatten(patchify(latents, patch), 2, (5, 4)).transpose(2, 3).flatten(2)
    assert torch.equal(unpatchify(channels_last, grid, patch), latents)
