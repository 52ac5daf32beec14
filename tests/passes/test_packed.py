"""Packed weights against plain ones."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tests.passes.small_wan import ROUTED, forward, relative, small_wan

from rushes.errors import ConfigError
from rushes.models.wan import cast_weights
from rushes.ops.packed import can_pack, pack_conv, pack_linear, packed_conv, packed_linear
from rushes.passes.base import ClipShape
from rushes.passes.plan import Plan, make_pass

BOTH_FFNS = replace(ROUTED, first_expert_layer=1)
pytestmark = pytest.mark.skipif(not can_pack(torch.empty(0)), reason="needs oneDNN")


def test_products_are_those_of_plain_weights() -> None:
    x, weight, bias = torch.randn(2, 5, 24), torch.randn(9, 24), torch.randn(9)
    plain = F.linear(x, weight, bias)
    packed = pack_linear(weight)
    torch.testing.assert_close(packed_linear(x, packed, bias), plain, atol=1e-4, rtol=0)
    made = packed_linear(x, packed, bias, "gelu")
    torch.testing.assert_close(made, F.gelu(plain, approximate="tanh"), atol=1e-4, rtol=0)
    for size, padding in (((4, 5), (1, 1)), ((3, 4, 5), (0, 1, 1))):
        x, weight = torch.randn(2, *size, 24), torch.randn(9, 24, *[3] * len(size))
        run = F.conv2d if len(size) == 2 else F.conv3d
        plain = run(x.movedim(-1, 1), weight, bias, padding=padding).movedim(1, -1)
        made = packed_conv(x, pack_conv(weight, padding), bias, padding)
        torch.testing.assert_close(made, plain, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_packed_blocks_are_the_plain_ones(dtype: torch.dtype, most: float) -> None:
    if not can_pack(torch.empty(0, dtype=dtype)):
        pytest.skip("no bfloat16 of this chip's own")
    plain = cast_weights(small_wan(BOTH_FFNS), dtype)
    plan = Plan(passes=(make_pass("packed", compiler="eager"),))
    wan = plan.apply("transformer", cast_weights(small_wan(BOTH_FFNS), dtype))
    plan.warm_up("transformer", wan, ClipShape(latent_shape=(4, 3, 8, 8), text_len=5, batch=1))
    for settings in ({}, {"batch": 2, "frames": 2}):
        assert relative(forward(wan, **settings), forward(plain, **settings)) < most
    assert torch.equal(forward(wan, causal=True), forward(plain, causal=True))


def test_refuses_what_it_cannot_pack() -> None:
    packed = make_pass("packed", compiler="eager")
    with pytest.raises(ConfigError, match=r"pass packed: oneDNN here packs no .*float64 on cpu; use compile"):
        packed.apply(small_wan().double())
    with pytest.raises(ConfigError, match=r"pass packed: block 0 has .*; list one of the two passes"):
        Plan(passes=(packed, make_pass("compile", unseen="eager"))).apply("transformer", small_wan())
