"""fp8-attention and linear-attention: when they run, what they refuse, and the passes beside one another."""

from itertools import combinations

import pytest
import torch
from small_wan import forward, relative, small_wan

from rushes.errors import ConfigError
from rushes.ops.linear_attention import linear_attention_reference
from rushes.passes.attention import Attention
from rushes.passes.attention_fp8 import Fp8Attention
from rushes.passes.attention_linear import LinearAttention
from rushes.passes.base import Pass
from rushes.passes.fp8 import Fp8Linears
from rushes.passes.plan import Plan, make_pass, plan_of
from rushes.passes.sparse import SparseAttention

FP8 = ("fp8-attention",)


def test_the_plain_phase_is_the_plain_network() -> None:
    wan = Fp8Attention().apply(small_wan())
    assert torch.equal(forward(wan), forward(small_wan()))
    assert 1e-5 < relative(forward(wan, phase=FP8), forward(small_wan())) < 0.1


def test_ends_of_the_trajectory_and_of_the_network_stay_in_high_precision() -> None:
    wan = Fp8Attention(first_share=0.1, last_share=0.05).apply(small_wan())
    assert [len(block.self_attn.phase_kernels) for block in wan.blocks] == [0, 1, 0]
    held = [wan.phase(step, 40, 0.0) == FP8 for step in range(40)]
    assert held == [False] * 4 + [True] * 34 + [False] * 2
    assert [wan.phase(step, 4, 0.0) == FP8 for step in range(4)] == [False, True, True, False]


def test_linear_attention_asks_for_consent() -> None:
    with pytest.raises(ConfigError, match=r"set needs_training to true .* or choose sparse-attention"):
        make_pass("linear-attention")
    with pytest.raises(ConfigError, match="needs_training"):
        plan_of({"format": 1, "passes": [{"name": "linear-attention", "needs_training": 1}]})


def test_linear_attention_runs_in_every_phase() -> None:
    wan = LinearAttention(needs_training=True).apply(small_wan())
    out = forward(wan)
    assert relative(out, forward(small_wan())) > 1e-4
    assert torch.equal(out, forward(wan, phase=FP8))


def test_the_kernel_of_the_layer_is_the_one_asked_for() -> None:
    wan = LinearAttention(needs_training=True, feature="relu", keep_blocks=(0,)).apply(small_wan())
    assert wan.blocks[0].self_attn.phase_kernels == ()
    q, k, v = torch.randn(3, 1, 12, 2, 16)
    out = wan.blocks[1].self_attn.phase_kernels[0].kernel(q, k, v, (1, 3, 4))
    torch.testing.assert_close(out, linear_attention_reference(q, k, v, feature="relu"))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.0), (0.0, 1.0)])
def test_shares_that_leave_no_step(shares: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="below 1 together"):
        Fp8Attention(first_share=shares[0], last_share=shares[1])


def test_sparse_steps_are_sparse_and_the_others_float8() -> None:
    fp8, sparse = Fp8Attention(), SparseAttention(density=0.4, block=4, dense_share=0.5)
    both = Plan(passes=(sparse, fp8)).apply("transformer", small_wan())
    only_sparse, only_fp8 = sparse.apply(small_wan()), fp8.apply(small_wan())
    early, late = both.phase(5, 40, 0.0), both.phase(30, 40, 0.0)
    assert (early, late) == (FP8, ("fp8-attention", "sparse-attention"))
    assert torch.equal(forward(both, frames=6, phase=early), forward(only_fp8, frames=6, phase=FP8))
    assert torch.equal(
        forward(both, frames=6, phase=late), forward(only_sparse, frames=6, phase=("sparse-attention",))
    )


def test_no_kernel_is_left_without_a_step() -> None:
    other = LinearAttention(needs_training=True)
    with pytest.raises(ConfigError, match="block 1 would never run sparse-attention; list one"):
        Plan(passes=(SparseAttention(), other)).apply("transformer", small_wan())
    apart = (Fp8Attention(keep_blocks=(0, 1)), LinearAttention(needs_training=True, keep_blocks=(2,)))
    wan = Plan(passes=apart).apply("transformer", small_wan())
    assert [block.self_attn.phase_kernels[0].label for block in wan.blocks] == [None, None, "fp8-attention"]


PASSES = (
    Attention(backend="sdpa"),
    Fp8Linears(),
    Fp8Attention(),
    SparseAttention(density=0.5, block=4, dense_blocks=(0, 1)),
    LinearAttention(needs_training=True, keep_blocks=(1, 2)),
)
PAIRS = list(combinations(PASSES, 2))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "+".join(one.name for one in pair))
def test_pairs_compose_in_either_order(pair: tuple) -> None:
    """The order of a plan's list says nothing, and neither pass undoes the other's change."""
    outs = []
    for passes in (pair, pair[::-1], pair[:1], pair[1:]):
        wan = Plan(passes=passes).apply("transformer", small_wan())
        outs.append(forward(wan, frames=6, phase=wan.phase(20, 40, 500.0)))
    both, turned, *alone = outs
    assert torch.equal(both, turned)
    for one, out in zip(pair, reversed(alone), strict=True):
        if one.name != "attention":
            assert relative(both, out) > 1e-5


@pytest.mark.parametrize("one", PASSES[1:], ids=lambda one: one.name)
def test_a_changed_block_is_one_graph_and_prints_without_addresses(one: Pass) -> None:
    wan = one.apply(small_wan())
    phase = wan.phases[-1]
    expected = forward(wan, frames=6, phase=phase)
    for block in wan.blocks:
        assert " at 0x" not in repr(block.self_attn.phase_kernels)
        block.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(forward(wan, frames=6, phase=phase), expected, rtol=1e-4, atol=1e-5)
