"""FlashAttention 3 where there is none: it says so, and torch.compile knows what it would give."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rushes.errors import ConfigError
from rushes.ops.attention import attention, best_backend
from rushes.ops.fa3 import check_fa3, fa3_attention, fa3_module

has_fa3 = pytest.mark.skipif(fa3_module() is not None, reason="FlashAttention 3 is installed")


@has_fa3
def test_without_the_package_cudnn_is_named() -> None:
    with pytest.raises(ConfigError, match="pip install fa3-fwd, or choose cudnn"):
        check_fa3()


def test_other_precisions_are_refused() -> None:
    q = torch.zeros(1, 4, 2, 64, dtype=torch.float16)
    with pytest.raises(ConfigError, match=r"takes bfloat16, not torch\.float16; choose cudnn"):
        attention(q, q, q, backend="fa3")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_its_result_has_the_queries_shape(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        qkv = torch.empty(2, 7, 3 * 256, dtype=dtype)
        q, k, v = (torch.unflatten(part, -1, (4, 64)) for part in qkv.chunk(3, -1))
        out = fa3_attention(q, k[:, :5], v[:, :5])
    assert out.shape == q.shape
    assert out.is_contiguous()
    assert out.dtype == torch.bfloat16


def test_a_cpu_has_torchs_own_kernel() -> None:
    assert best_backend(torch.device("cpu"))[0] == "sdpa"
