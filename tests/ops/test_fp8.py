"""float8 matmuls: the codes, the reference, and torch's own operator where this machine runs it."""

import pytest
import torch
import torch.nn.functional as F

from rushes.errors import ConfigError
from rushes.ops.fp8 import (
    CODE,
    check_fp8_device,
    quantize_rows,
    quantize_rows_in_one,
    quantize_rows_reference,
    scaled_mm,
    scaled_mm_reference,
)


def _with_outliers(*shape: int) -> torch.Tensor:
    x = torch.randn(shape)
    x[..., 3] *= 60  # a channel such as trained transformers have
    x[::5] *= 1000  # and rows of another size
    return x


def test_codes_are_within_half_a_step() -> None:
    x = _with_outliers(40, 64)
    codes, scale = quantize_rows(x)
    assert (codes.dtype, scale.dtype, scale.shape) == (CODE, torch.float32, (40, 1))
    apart = (codes.float() * scale - x).abs()
    # 3 bits of mantissa: 2^-4 of the number, or half of the smallest subnormal, 2^-10.
    assert (apart <= torch.maximum(x.abs() * 2**-4, scale * 2**-10) * 1.0001).all()


def test_a_row_scales_exactly_and_alone() -> None:
    x = _with_outliers(6, 32)
    larger = x.clone()
    larger[2] *= 2.0**20
    codes, scale = quantize_rows(x)
    other_codes, other_scale = quantize_rows(larger)
    assert torch.equal(codes.float(), other_codes.float())
    assert torch.equal(other_scale[2], scale[2] * 2.0**20)
    assert torch.equal(other_scale[[0, 1, 3, 4, 5]], scale[[0, 1, 3, 4, 5]])


@pytest.mark.parametrize("value", [0.0, 1e-30, 3e38])
def test_no_row_becomes_nan(value: float) -> None:
    codes, scale = quantize_rows(torch.full((2, 16), value))
    assert torch.isfinite(codes.float()).all()
    assert torch.isfinite(scale).all()


@pytest.mark.skipif(torch.__version__ < "2.12", reason="torch 2.11 scales whole tensors alone on a CPU")
@pytest.mark.parametrize("has_bias", [True, False])
def test_torch_computes_what_the_reference_says(has_bias: bool) -> None:
    a, scale_a = quantize_rows(_with_outliers(17, 48))
    b, scale_b = quantize_rows(torch.randn(32, 48))
    bias = torch.randn(32) if has_bias else None
    expected = scaled_mm_reference(a, b, scale_a, scale_b, bias, torch.float32)
    found = torch._scaled_mm(
        a, b.t(), scale_a=scale_a, scale_b=scale_b.t(), bias=bias, out_dtype=torch.float32
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's own kernel")
@pytest.mark.parametrize("rows", [1, 17, 24, 256])
def test_the_gpu_computes_what_the_reference_says(rows: int) -> None:
    a, scale_a = quantize_rows(_with_outliers(rows, 256).cuda())
    b, scale_b = quantize_rows(torch.randn(128, 256, device="cuda"))
    bias = torch.randn(128, device="cuda", dtype=torch.bfloat16)
    given = (a, b, scale_a, scale_b, bias, torch.bfloat16)
    found, expected = scaled_mm(*given).float(), scaled_mm_reference(*given).float()
    assert (found - expected).norm() <= 1e-2 * expected.norm()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("has_gelu", [False, True])
def test_rows_quantised_in_one_are_those_of_the_plain_operators(device: str, has_gelu: bool) -> None:
    """A code may be the next one where GELU or a product is rounded otherwise."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("a GPU's own kernel")
    x = _with_outliers(24, 200).to(device, torch.bfloat16)
    codes, scales = quantize_rows_in_one(x.view(2, 12, 200), has_gelu=has_gelu)
    expected, expected_scales = quantize_rows_reference(x, has_gelu)
    assert (codes.shape, codes.dtype, scales.shape) == ((2, 12, 200), CODE, (2, 12, 1))
    torch.testing.assert_close(scales.view(24, 1), expected_scales, rtol=1e-2, atol=0)
    values = codes.float().view(24, 200) * scales.view(24, 1)
    assert (values - expected.float() * expected_scales).norm() <= 2e-2 * values.norm()
    exact = F.gelu(x.float(), approximate="tanh") if has_gelu else x.float()
    assert 1e-3 < (values - exact).norm() / exact.norm() < 0.06


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_no_number_stays_none(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("a GPU's own kernel")
    x = torch.randn(3, 40, device=device)
    x[1, 7] = float("nan")
    _, scales = quantize_rows_in_one(x, has_gelu=True)
    assert scales.flatten().isnan().tolist() == [False, True, False]


def test_devices_without_it_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^here: no float8 matmul on mps; choose cuda"):
        check_fp8_device(torch.device("mps"), torch.bfloat16, "here")
