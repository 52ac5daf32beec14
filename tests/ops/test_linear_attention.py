"""Linear attention against its N x N form."""

import pytest
import torch

from rushes.errors import UnknownName
from rushes.ops.linear_attention import FEATURES, linear_attention, linear_attention_reference


@pytest.mark.parametrize("feature", sorted(FEATURES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_what_its_weights_say(feature: str, dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(2, tokens, 3, 16).to(dtype) for tokens in (20, 33, 33))
    out = linear_attention(q, k, v, feature=feature)
    expected = linear_attention_reference(q, k, v, feature=feature)
    assert (out.dtype, out.shape) == (dtype, q.shape)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert (out.float() - expected.float()).norm() < tolerance * expected.float().norm()


def test_weights_of_a_query_sum_to_one() -> None:
    q, k = torch.randn(2, 1, 50, 2, 8)
    torch.testing.assert_close(linear_attention(q, k, torch.ones_like(k)), torch.ones_like(q))


def test_an_unknown_feature() -> None:
    with pytest.raises(UnknownName, match="did you mean 'relu'"):
        linear_attention(*torch.randn(3, 1, 4, 1, 8), feature="reluu")
