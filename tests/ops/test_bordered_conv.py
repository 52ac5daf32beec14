"""The convolution over bordered frames, against PyTorch's; the kernel against its specification."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rushes.models.wan_vae_blocks import causal_conv
from rushes.ops.bordered_conv import bordered_conv, is_faster, takes
from rushes.ops.frame_window import Addends, frame_window, total_of


def relative(ours, reference):
    return float((ours.float() - reference.float()).norm() / reference.float().norm())


def test_it_is_a_convolution_and_its_borders_are_nobodys() -> None:
    window, weight = torch.randn(2, 4, 5, 6, 3), torch.randn(7, 3, 3, 3, 3)
    out = bordered_conv(F.pad(window, (0, 0, 0, 1, 0, 1)), weight)
    expected = F.conv3d(window.movedim(-1, 1), weight, padding=(0, 1, 1)).movedim(1, -1)
    assert out.shape == (2, 2, 6, 7, 7)
    assert torch.allclose(out[:, :, :-1, :-1], expected, atol=1e-5)
    assert out[:, :, -1].isnan().all()
    assert out[:, :, :, -1].isnan().all()


def test_layers_that_are_taken() -> None:
    assert is_faster(causal_conv(96, 96))
    assert takes(causal_conv(192, 192))
    assert not is_faster(causal_conv(192, 192))
    refused = (causal_conv(48, 96), causal_conv(96, 3), nn.Conv3d(96, 96, 3), nn.Conv3d(96, 96, (3, 1, 1)))
    assert not any(takes(conv) for conv in refused)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9, reason="needs a Hopper GPU"
)
@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize(("channels", "out_channels"), [(96, 96), (192, 384), (384, 384), (32, 40)])
def test_the_kernel_is_its_specification(frames: int, channels: int, out_channels: int) -> None:
    from rushes.ops.bordered_conv_triton import bordered_conv as kernel

    values = torch.randn(2, frames, 13, 22, channels, device="cuda", dtype=torch.bfloat16)
    past = torch.randn(2, 2, 13, 22, channels, device="cuda", dtype=torch.bfloat16)
    window = frame_window(Addends(values=values), past, None, False, True).frames
    weight = torch.randn(out_channels, channels, 3, 3, 3, device="cuda", dtype=torch.bfloat16)
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    ours, expected = kernel(window, weight), bordered_conv(window, weight)
    assert relative(*(total_of(Addends(values=out, is_bordered=True)) for out in (ours, expected))) < 3e-3
