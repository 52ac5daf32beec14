"""Every pass of the registry with every other: they compose, or one says in a line why it cannot."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rushes.errors import RushesError
from rushes.models.configs import WanConfig, WanVAEConfig
from rushes.models.wan import Wan
from rushes.models.wan_vae import WanVAE
from rushes.passes.base import PASSES, Pass, settings_of
from rushes.passes.plan import Plan, make_pass
from rushes.passes.presets import PLAN_PRESETS, Candidate
from rushes.profiling.optimize import propose

NETWORK = WanConfig(
    num_layers=4,
    num_attention_heads=2,
    attention_head_dim=32,
    in_channels=4,
    out_channels=4,
    ffn_dim=128,
    text_dim=16,
    freq_dim=16,
)
VAE = WanVAEConfig(
    base_dim=8, z_dim=4, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,), is_residual=False
)
CHEAP: dict[str, dict[str, Any]] = {
    "attention": {"backend": "sdpa"},
    "compile": {"unseen": "eager"},
    "packed": {"compiler": "eager"},
    "sparse-attention": {"block": 4, "density": 0.5},
    "vae-compile": {"backend": "eager"},
    "vae-fused": {"kernels": "torch"},
}
"""Settings that a small model and a CPU have; nothing is compiled, as composing is what is tested."""

NEUTRAL: dict[str, dict[str, Any]] = {
    "attention": {"backend": "sdpa"},
    "compile": {"unseen": "eager"},
    "sparse-attention": {"block": 4, "density": 1.0},
    "vae-compile": {"backend": "eager"},
}
"""Settings with which a pass changes nothing; passes without such are not listed."""

LARGEST_ERROR = 0.5
"""Relative, of any two passes together: 8-bit attention on random weights is far off, garbage further."""

NAMES = PASSES.names()


def seeded(make: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval().requires_grad_(False)


@torch.no_grad()
def outputs(plan: Plan) -> dict[str, Tensor]:
    """What both networks make after the plan, at a step in the middle."""
    wan = plan.apply("transformer", seeded(lambda: Wan(NETWORK)))
    vae = plan.apply("vae", seeded(lambda: WanVAE(VAE)))
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 3, 8, 8, generator=generator)
    context = wan.encode_text(torch.randn(1, 5, NETWORK.text_dim, generator=generator))
    velocity = wan(latents, torch.tensor([500.0]), context, phase=wan.phase(20, 40, 500.0))
    return {"transformer": velocity, "vae": vae.decode(latents)}


PLAIN = outputs(Plan())


def error(out: Tensor, part: str) -> float:
    return float((out.float() - PLAIN[part]).norm() / PLAIN[part].norm())


def made(name: str, settings: dict[str, dict[str, Any]] = CHEAP) -> Pass | str:
    """The pass, or the line with which it refuses this machine or these networks."""
    try:
        one = make_pass(name, **settings.get(name, {}))
        outputs(Plan(passes=(one,)))
    except RushesError as refusal:
        return str(refusal)
    return one


MADE = {name: made(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_changes_its_part_alone_or_refuses_in_one_line(name: str) -> None:
    one = MADE[name]
    if isinstance(one, str):
        assert one
        assert "\n" not in one
        pytest.skip(one)
    found = outputs(Plan(passes=(one,)))
    for part, out in found.items():
        assert torch.isfinite(out).all()
        if part != one.part:
            assert torch.equal(out, PLAIN[part])
    assert error(found[one.part], one.part) < LARGEST_ERROR


def composed(passes: list[Pass]) -> dict[str, Tensor] | str:
    """What the networks make, or the line of refusal."""
    try:
        return outputs(Plan(passes=tuple(passes)))
    except RushesError as refusal:
        return str(refusal)


@pytest.mark.parametrize("pair", list(itertools.combinations(NAMES, 2)), ids="+".join)
def test_two_passes_compose_or_refuse_in_one_line(pair: tuple[str, str]) -> None:
    passes = [one for one in map(MADE.get, pair) if one is not None and not isinstance(one, str)]
    if len(passes) < 2:
        pytest.skip("; ".join(line for line in map(MADE.get, pair) if isinstance(line, str)))
    found, swapped = composed(passes), composed(passes[::-1])
    if isinstance(found, str) or isinstance(swapped, str):
        assert found == swapped
        assert any(f"pass {name}" in str(found) for name in pair)
        assert "\n" not in str(found)
        return
    for part, out in found.items():
        assert torch.equal(out, swapped[part]), "the order in which a plan lists passes decides nothing"
        assert error(out, part) < LARGEST_ERROR


@pytest.mark.parametrize("name", [name for name in NAMES if name in NEUTRAL])
def test_a_neutral_setting_is_exact(name: str) -> None:
    one = made(name, NEUTRAL)
    assert not isinstance(one, str), one
    for part, out in outputs(Plan(passes=(one,))).items():
        assert torch.equal(out, PLAIN[part]) or error(out, part) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_refuses_a_network_that_it_does_not_know(name: str) -> None:
    one = MADE[name]
    if isinstance(one, str):
        pytest.skip(one)
    with pytest.raises(RushesError, match=f"pass {name}"):
        Plan(passes=(one,)).apply(one.part, nn.Linear(2, 2))


def test_every_candidate_of_a_preset_is_proposed_or_explained() -> None:
    candidates = {one.name: one for preset in PLAN_PRESETS.values() for one in preset.candidates}
    assert {"attention", "compile", "fp8-linears", "sparse-attention"} <= set(candidates)
    for candidate in candidates.values():
        one, reason = propose(candidate, "cpu")
        assert (one is None) == (candidate.name not in PASSES or bool(reason and one is None))
        if one is None:
            assert candidate.name in reason or reason
            assert "\n" not in reason


def test_a_missing_pass_is_named_and_settings_fall_back() -> None:
    assert propose(Candidate(name="warp-drive"), "cpu") == (
        None,
        "missing: this version has no pass 'warp-drive'",
    )
    one, reason = propose(
        Candidate(name="attention", settings=({"backend": "nonsense"}, {"backend": "sdpa"})), "cuda"
    )
    assert one is not None
    assert settings_of(one)["backend"] == "sdpa"
    assert "nonsense" in reason
