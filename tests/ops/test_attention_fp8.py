"""Attention on float8 codes: the codes, the reference, the GPU's kernel where there is one."""

import pytest
import torch

from rushes.errors import ConfigError
from rushes.ops.attention_fp8 import attention_fp8, check_attention_fp8, quantize_heads
from rushes.ops.fp8 import CODE
from rushes.ops.reference import attention_loop

DEVICES = ["cpu"]
if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9:
    DEVICES.append("cuda")


def _qkv(heads=4, dim=64, dtype=torch.float32):
    q, k, v = torch.randn(1, 70, heads, dim), torch.randn(1, 90, heads, dim), torch.randn(1, 90, heads, dim)
    # One head a hundred times as large: with one scale a tensor the others would be lost.
    k[:, :, 1] *= 100
    q[:, :, 1] /= 100
    v[:, :, 2] *= 100
    return q.to(dtype), k.to(dtype), v.to(dtype)


def test_each_head_has_a_scale_of_its_own() -> None:
    _, k, _ = _qkv()
    codes, scale = quantize_heads(k)
    assert (codes.dtype, scale.shape) == (CODE, (1, 4))
    for head in range(4):
        assert codes[:, :, head].float().abs().max() == 448
        torch.testing.assert_close(scale[0, head] * 448, k[:, :, head].abs().max())
    apart = (codes.float() * scale[:, None, :, None] - k).abs()
    assert (apart <= torch.maximum(k.abs() * 2**-4, scale[:, None, :, None] * 2**-10) * 1.0001).all()


@pytest.mark.parametrize("device", DEVICES)
def test_it_is_near_attention_head_by_head(device: str) -> None:
    q, k, v = (x.to(device) for x in _qkv(dtype=torch.bfloat16))
    out = attention_fp8(q, k, v)
    expected = attention_loop(q.float(), k.float(), v.float())
    assert (out.dtype, out.shape) == (torch.bfloat16, q.shape)
    errors = (out - expected).norm(dim=(1, 3)) / expected.norm(dim=(1, 3))
    assert 1e-3 < errors.max() < 0.1


def test_a_common_part_of_the_keys_costs_nothing() -> None:
    q, k, v = _qkv()
    common = 30 * torch.randn(1, 1, 4, 64)
    expected = attention_loop(q, k, v)
    error = (attention_fp8(q, k + common, v) - expected).norm() / expected.norm()
    assert error < 0.1


def test_it_is_one_graph_of_a_compiled_block() -> None:
    q, k, v = _qkv()
    compiled = torch.compile(attention_fp8, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), attention_fp8(q, k, v))


def test_devices_without_it_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^here: the float8 kernel is for Hopper GPUs"):
        check_attention_fp8(torch.device("mps"), torch.bfloat16, 128, "here")
