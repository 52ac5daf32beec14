"""int8 matmuls: codes, and each kernel against the reference."""

import pytest
import torch

from rushes.ops import int8
from rushes.ops.int8 import int8_linear, int8_linear_reference, quantize_static, quantize_weight

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def test_weights_are_within_half_a_step_of_their_row() -> None:
    weight = torch.randn(20, 64)
    weight[3] *= 1e4
    codes, scale = quantize_weight(weight)
    assert (codes.dtype, scale.shape) == (torch.int8, (20, 1))
    assert ((codes * scale - weight).abs() <= scale * 0.5001).all()
    assert (codes.abs().amax(1) == 127).all()


def test_inputs_beyond_the_range_are_cut() -> None:
    codes = quantize_static(torch.tensor([[0.0, 0.5, -1.0, 7.0, -9.0]]), torch.tensor(1 / 127))
    assert codes.tolist() == [[0, 64, -127, 127, -127]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 17, 40])
def test_it_is_what_the_reference_says(device: str, rows: int) -> None:
    x = torch.randint(-127, 128, (rows, 64), dtype=torch.int8, device=device)
    weight = torch.randint(-127, 128, (48, 64), dtype=torch.int8, device=device)
    x_scale, scale = torch.tensor(0.02, device=device), torch.rand(48, 1, device=device)
    given = (x, weight, x_scale, scale, torch.randn(48, device=device), torch.float32)
    torch.testing.assert_close(int8_linear(*given), int8_linear_reference(*given))
    exact = (x.double() * x_scale) @ (weight.double() * scale).T + given[4]
    torch.testing.assert_close(int8_linear(*given).double(), exact, rtol=1e-5, atol=1e-4)


def test_torch_sums_codes_exactly() -> None:
    x, weight = (torch.randint(-127, 128, (size, 64), dtype=torch.int8) for size in (20, 48))
    assert torch.equal(torch._int_mm(x, weight.t()), x.int() @ weight.int().T)


def test_onednn_computes_the_same_where_sums_of_two_fit_16_bits() -> None:
    x, weight = (torch.randint(-60, 61, (size, 64), dtype=torch.int8) for size in (20, 48))
    given = (x, weight, torch.tensor(0.02), torch.rand(48, 1), torch.randn(48))
    expected = int8_linear_reference(*given, torch.float32)
    torch.testing.assert_close(int8._onednn(*given), expected, rtol=1e-5, atol=1e-4)
