"""The window between two convolutions, against the operations that it stands for."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from rushes.errors import ConfigError, UnknownName
from rushes.ops.frame_window import Addends, frame_window, phase_weight, total_of, unphased, window_kernels

CPU = torch.device("cpu")


def relative(ours, reference):
    return float((ours - reference).norm() / reference.norm())


def test_a_window_is_sum_norm_silu_behind_the_past() -> None:
    values, shortcut = torch.randn(2, 2, 3, 4, 5, 6)
    bias, norm = torch.randn(2, 6)
    past = torch.randn(2, 2, 4, 5, 6)
    window = frame_window(Addends(values=values, bias=bias, shortcut=shortcut), past, norm, True, False)
    total = values + bias + shortcut
    activated = F.silu(total / total.square().mean(-1, keepdim=True).sqrt() * norm)
    assert window.total is not None
    assert torch.allclose(window.total, total)
    assert torch.equal(window.frames[:, :2], past)
    assert relative(window.frames[:, 2:], activated) < 1e-6
    assert torch.equal(window.past, window.frames[:, 3:])


def test_borders_are_zeros_behind_and_are_not_read_before() -> None:
    values, shortcut = torch.randn(2, 1, 2, 3, 4, 6)
    past, norm = torch.randn(1, 2, 3, 4, 6), torch.randn(6)
    plain = frame_window(Addends(values=values, shortcut=shortcut), past, norm, True, False)
    bordered = Addends(
        values=F.pad(values, (0, 0, 0, 1, 0, 1), value=torch.nan), shortcut=shortcut, is_bordered=True
    )
    assert bordered.shape == values.shape
    window = frame_window(bordered, past, norm, True, True)
    assert torch.equal(window.frames, F.pad(plain.frames, (0, 0, 0, 1, 0, 1)))
    assert torch.equal(window.past, plain.past)
    assert window.total is not None
    assert plain.total is not None
    assert torch.equal(window.total, plain.total)


@pytest.mark.parametrize("frames", [1, 4])
def test_a_start_has_zeros_before_it_and_no_norm_means_none(frames: int) -> None:
    values = torch.randn(1, frames, 2, 3, 4)
    window = frame_window(Addends(values=values), None, None, False, False)
    assert window.total is None
    assert torch.equal(window.frames, torch.cat([torch.zeros(1, 2, 2, 3, 4), values], dim=1))
    assert torch.equal(window.past, window.frames[:, -2:])
    assert window.past.untyped_storage().nbytes() == window.past.nbytes


def test_a_folded_doubling_is_a_doubling_and_a_convolution() -> None:
    images, weight, bias = torch.randn(3, 5, 4, 7), torch.randn(6, 5, 3, 3), torch.randn(6)
    doubled = F.interpolate(images, scale_factor=2.0, mode="nearest-exact")
    expected = F.conv2d(doubled, weight, bias, padding=1).movedim(1, -1)[None]
    folded = F.conv2d(images, phase_weight(weight), padding=1).movedim(1, -1)[None]
    assert relative(unphased(folded) + bias, expected) < 1e-6
    addends = Addends(values=folded, bias=bias, is_phased=True)
    assert addends.shape == expected.shape
    assert relative(total_of(addends), expected) < 1e-6


def test_sums_of_bfloat16_are_rounded_once() -> None:
    values, shortcut = torch.randn(2, 1, 1, 2, 2, 64, dtype=torch.bfloat16)
    bias = torch.randn(64, dtype=torch.bfloat16)
    exact = (values.float() + bias.float() + shortcut.float()).bfloat16()
    assert torch.equal(total_of(Addends(values=values, bias=bias, shortcut=shortcut)), exact)


def test_kernels_are_picked_by_name_and_never_by_default() -> None:
    assert window_kernels("torch", CPU, torch.float32).window is frame_window
    with pytest.raises(UnknownName, match="choose from torch, triton"):
        window_kernels("cuda", CPU, torch.float32)
    with pytest.raises(ConfigError, match="on cpu, Triton runs on cuda"):
        window_kernels("triton", CPU, torch.float32)
    if importlib.util.find_spec("triton") is None:
        with pytest.raises(ConfigError, match="Triton is not installed"):
            window_kernels("triton", torch.device("cuda"), torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("channels", [16, 96, 1024])
@pytest.mark.parametrize("layout", ["plain", "phased", "bordered"])
@pytest.mark.parametrize("with_border", [False, True])
def test_the_kernel_is_its_specification(channels: int, layout: str, with_border: bool) -> None:
    shape = (2, 3, 6, 10, channels)
    layouts = {"plain": shape, "phased": (2, 3, 4, 6, 4 * channels), "bordered": (2, 3, 7, 11, channels)}
    values = torch.randn(layouts[layout])
    shortcut, past = torch.randn(shape), torch.randn(2, 2, *shape[2:])
    bias, norm = torch.randn(2, channels)
    values, shortcut, past, bias, norm = (
        tensor.to("cuda", torch.bfloat16) for tensor in (values, shortcut, past, bias, norm)
    )
    kernels = window_kernels("triton", values.device, values.dtype)
    sums = {"is_phased": layout == "phased", "is_bordered": layout == "bordered"}
    addends = Addends(values=values, bias=bias, shortcut=shortcut, **sums)
    ours, expected = (
        window(addends, past, norm, True, with_border) for window in (kernels.window, frame_window)
    )
    assert relative(ours.frames.float(), expected.frames.float()) < 2e-3
    cells = ours.frames
    if with_border:
        assert not cells[:, :, -1].any()
        assert not cells[:, :, :, -1].any()
        cells = cells[:, :, :-1, :-1]
    assert torch.equal(ours.past, cells[:, -2:])
    assert torch.equal(cells[:, :2], past)
    assert ours.total is not None
    assert torch.equal(ours.total, kernels.total(addends))
    assert relative(ours.total.float(), total_of(addends).float()) < 2e-3
