"""Blocks and the VAE's decode step in OpenVINO and onnxruntime: the same numbers at every size, one graph."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from tests.passes.small_wan import ROUTED, forward, relative, small_wan
from torch import nn

from rushes.errors import ConfigError
from rushes.models.configs import WanVAEConfig
from rushes.models.wan import Wan, cast_weights
from rushes.models.wan_vae import WanVAE
from rushes.passes.backend import EngineStack
from rushes.passes.plan import Plan, make_pass

TOLERANCE = 1e-4
MISSING = [
    name for name in ("onnx", "onnxscript", "openvino", "onnxruntime") if not importlib.util.find_spec(name)
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra rushes[export]: {', '.join(MISSING)}")

BOTH_FFNS = replace(ROUTED, first_expert_layer=1)
"""A dense block, and two routed ones that share a trace."""

VAE = WanVAEConfig(base_dim=8, z_dim=4, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,))
ENGINES = ("openvino", "onnxruntime")


@cache
def moved(engine: str) -> Wan:
    return Plan(passes=(make_pass("backend", engine=engine),)).apply("transformer", small_wan(BOTH_FFNS))


def small_vae() -> WanVAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return WanVAE(VAE).eval().requires_grad_(False)


@cache
def moved_vae(engine: str) -> WanVAE:
    return Plan(passes=(make_pass("vae-backend", engine=engine),)).apply("vae", small_vae())


@pytest.mark.parametrize("engine", ENGINES)
def test_one_graph_takes_batches_and_sizes(engine: str) -> None:
    for settings in ({"batch": 1, "frames": 3}, {"batch": 3, "frames": 5}):
        found, plain = forward(moved(engine), **settings), forward(small_wan(BOTH_FFNS), **settings)
        assert relative(found, plain) < TOLERANCE
        assert not torch.equal(found, plain), "another engine sums in another order"


def test_every_block_runs_in_the_engine() -> None:
    wan = moved("openvino")
    assert isinstance(wan.stack, EngineStack)

    def fail(*_: Any) -> None:
        raise AssertionError("a block ran in PyTorch")

    hooks = [block.register_forward_pre_hook(fail) for block in wan.blocks]
    try:
        forward(wan)
        with pytest.raises(AssertionError, match="ran in PyTorch"):
            forward(wan, causal=True)
    finally:
        for hook in hooks:
            hook.remove()


def test_causal_calls_and_loads_stay_in_pytorch() -> None:
    wan, plain = moved("openvino"), small_wan(BOTH_FFNS)
    assert torch.equal(forward(wan, causal=True), forward(plain, causal=True))
    loads: list[torch.Tensor] = []
    forward(wan, router_loads=loads)
    assert len(loads) == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_clips_decode_side_by_side(engine: str) -> None:
    vae, plain = moved_vae(engine), small_vae()
    generator = torch.Generator().manual_seed(2)
    clips = [torch.randn(1, 4, 3, 6, 4, generator=generator), torch.randn(2, 4, 3, 3, 5, generator=generator)]
    states: list[Any] = [None, None]
    frames: list[list[torch.Tensor]] = [[], []]
    for step in range(3):
        for which, clip in enumerate(clips):
            made, states[which] = vae.decode_step(clip[:, :, step : step + 1], states[which])
            frames[which].append(made)
    for made, clip in zip(frames, clips, strict=True):
        torch.testing.assert_close(torch.cat(made, dim=2), plain.decode(clip), atol=TOLERANCE, rtol=0)


def test_a_state_may_be_used_again() -> None:
    vae = moved_vae("openvino")
    latents = torch.randn(1, 4, 2, 3, 4, generator=torch.Generator().manual_seed(3))
    _, state = vae.decode_step(latents[:, :, :1])
    kept = [past.clone() for past in state.past]
    once, twice = (vae.decode_step(latents[:, :, 1:], state)[0] for _ in range(2))
    assert torch.equal(once, twice)
    assert all(map(torch.equal, kept, state.past))


@pytest.mark.parametrize("name", ["backend", "vae-backend"])
def test_refuses_what_it_cannot_do(name: str) -> None:
    with pytest.raises(ConfigError, match=r"engine 'openvin' is none of openvino, onnxruntime"):
        make_pass(name, engine="openvin")
    with pytest.raises(ConfigError, match=r"num_threads is -1; needs at least 1"):
        make_pass(name, num_threads=-1)
    with pytest.raises(ConfigError, match=f"pass {name}: a Linear is no"):
        make_pass(name).apply(nn.Linear(2, 2))


def test_refuses_other_precisions_devices_and_passes() -> None:
    backend = make_pass("backend")
    with pytest.raises(ConfigError, match=r"torch.bfloat16; load .* float32, or use packed"):
        backend.apply(cast_weights(small_wan(), torch.bfloat16))
    with pytest.raises(ConfigError, match=r"torch.bfloat16; load .* float32, or use vae-compile"):
        make_pass("vae-backend").apply(small_vae().to(torch.bfloat16))
    with pytest.raises(ConfigError, match="is on meta; it runs on a CPU only"):
        backend.apply(small_wan().to("meta"))
    with pytest.raises(ConfigError, match=r"pass backend: block 0 has .*; list one of the two passes"):
        Plan(passes=(backend, make_pass("compile", unseen="eager"))).apply("transformer", small_wan())
    with pytest.raises(ConfigError, match="the decode step is a CompiledStep already"):
        Plan(passes=(make_pass("vae-backend"), make_pass("vae-compile", backend="eager"))).apply(
            "vae", small_vae()
        )
