"""fp8-linears: how far a layer is off, what is replaced, what is refused, who can use the result."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from small_wan import ROUTED, SMALL, forward, relative, small_wan
from torch import nn

from rushes.errors import ConfigError, UnknownName
from rushes.models.expert_pair import SwappedExperts, num_bytes
from rushes.models.wan import cast_weights
from rushes.ops.fp8 import CODE
from rushes.passes.attention import Attention
from rushes.passes.fp8 import Fp8Linear, Fp8Linears
from rushes.passes.linears import TARGETS
from rushes.passes.plan import Plan, make_pass


def _changed(network: nn.Module) -> set[str]:
    return {name for name, module in network.named_modules() if isinstance(module, Fp8Linear)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_is_near_its_float32_self_despite_outliers(dtype: torch.dtype) -> None:
    linear = nn.Linear(256, 128)
    x = torch.randn(2, 30, 256)
    x[..., 7] *= 80  # a per-tensor or per-channel format with such a channel loses the others
    x[0] *= 500
    expected = linear(x)
    layer = Fp8Linear(linear.to(dtype), use_fast_accum=True)
    out = layer(x.to(dtype))
    assert (out.dtype, out.shape) == (dtype, expected.shape)
    rows = (out.float() - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert 1e-4 < rows.max() < 0.06  # each row by itself; not zero, or nothing was quantised


def test_weights_are_rounded_row_by_row() -> None:
    linear = nn.Linear(32, 16, bias=False)
    with torch.no_grad():
        linear.weight[3] *= 1e4
    layer = Fp8Linear(linear, use_fast_accum=True)
    assert layer.bias is None
    for row, stored in zip(linear.weight, layer.weight.float() * layer.scale, strict=True):
        assert (stored - row).abs().max() <= row.abs().max() * 2**-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_own_kernels_change_nothing(dtype: torch.dtype) -> None:
    """On a CPU both are the plain operators."""
    plain, own = (
        Fp8Linears(own_kernels=own).apply(cast_weights(small_wan(), dtype)) for own in (False, True)
    )
    kinds = Counter(type(module).__name__ for module in own.modules() if isinstance(module, Fp8Linear))
    assert kinds == {"Fp8Linear": 9, "OpaqueFp8Linear": 6, "GeluFp8Linear": 3}
    assert not any(
        type(module) is not Fp8Linear for module in plain.modules() if isinstance(module, Fp8Linear)
    )
    assert torch.equal(forward(own), forward(plain))


def test_every_target_is_replaced_and_nothing_else() -> None:
    plain = small_wan()
    wan = Fp8Linears().apply(small_wan())
    expected = {f"blocks.{i}.{path}" for i in range(3) for paths in TARGETS.values() for path in paths}
    assert _changed(wan) == expected
    kept = dict(wan.named_parameters())
    for name, parameter in plain.named_parameters():
        if name.rpartition(".")[0] in expected and name.endswith("weight"):
            assert kept[name].dtype == CODE
        else:
            assert torch.equal(kept[name], parameter)


def test_fields_pick_layers_and_blocks() -> None:
    wan = Fp8Linears(targets=("ffn", "attn_out"), keep_blocks=(0, -1)).apply(small_wan())
    assert _changed(wan) == {f"blocks.1.{path}" for path in ("ffn.up", "ffn.down", "self_attn.out")}


def test_a_forward_stays_near_and_is_smaller() -> None:
    plain, wan = small_wan(), Fp8Linears().apply(small_wan())
    assert 1e-4 < relative(forward(wan), forward(plain)) < 0.05
    targeted = sum(
        module.weight.nbytes
        for name, module in plain.named_modules()
        if isinstance(module, nn.Linear) and name in _changed(wan)
    )
    saved = num_bytes(plain) - num_bytes(wan)
    rows = sum(module.out_features for module in wan.modules() if isinstance(module, Fp8Linear))
    assert saved == targeted * 3 // 4 - 4 * rows


def test_fewer_layers_are_nearer() -> None:
    expected = forward(small_wan())
    errors = [
        relative(forward(Fp8Linears(targets=targets).apply(small_wan())), expected)
        for targets in (("ffn",), ("ffn", "qkv", "attn_out", "cross_q", "cross_out"))
    ]
    assert errors[0] < errors[1]


def test_a_bf16_network_gives_what_a_bf16_network_gives() -> None:
    plain = cast_weights(small_wan(), torch.bfloat16)
    wan = Fp8Linears().apply(cast_weights(small_wan(), torch.bfloat16))
    assert relative(forward(wan), forward(plain)) < 0.08
    assert wan.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"targets": ()}, "targets is empty"),
        ({"keep_blocks": (3,)}, "there are 0 to 2"),
        ({"keep_blocks": (0, 1, -1)}, "all 3 blocks"),
    ],
)
def test_what_changes_nothing_is_refused(settings: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(ConfigError, match="pass fp8-linears") as caught:
        Fp8Linears(**settings).apply(small_wan())
    assert words in str(caught.value)


def test_refusals_name_the_layer_and_the_rule() -> None:
    with pytest.raises(UnknownName, match="did you mean 'qkv'"):
        make_pass("fp8-linears", targets=["qvk"])
    with pytest.raises(ConfigError, match=r"blocks\.0\.ffn\.up: 72 out_features are no multiple of 16"):
        Fp8Linears().apply(small_wan(replace(SMALL, ffn_dim=72)))
    with pytest.raises(ConfigError, match=r"token experts; choose from qkv, attn_out, cross_q, cross_out"):
        Fp8Linears().apply(small_wan(ROUTED))
    with pytest.raises(ConfigError, match="a Linear is no transformer"):
        Fp8Linears().apply(nn.Linear(16, 16))
    with pytest.raises(ConfigError, match="is a Fp8Linear already"):
        Fp8Linears().apply(Fp8Linears().apply(small_wan()))


def test_token_experts_stay_and_the_rest_is_replaced() -> None:
    wan = Fp8Linears(targets=("qkv",)).apply(small_wan(ROUTED))
    assert _changed(wan) == {f"blocks.{i}.self_attn.qkv" for i in range(3)}
    assert relative(forward(wan), forward(small_wan(ROUTED))) < 0.1


def test_a_plan_composes_it_with_attention() -> None:
    passes = (Fp8Linears(targets=("ffn",)), Attention(backend="sdpa"))
    together = forward(Plan(passes=passes).apply("transformer", small_wan()))
    alone = forward(Plan(passes=passes[:1]).apply("transformer", small_wan()))
    assert torch.equal(together, alone)


def test_swapping_experts_takes_the_codes_along() -> None:
    change = Fp8Linears()
    expected = {900.0: forward(change.apply(small_wan())), 100.0: forward(change.apply(small_wan(seed=9)))}
    pair = SwappedExperts(change.apply(small_wan()), change.apply(small_wan(seed=9)), boundary=0.875)
    for timestep in (900.0, 100.0, 900.0):
        assert torch.equal(forward(pair.select(timestep)), expected[timestep])
