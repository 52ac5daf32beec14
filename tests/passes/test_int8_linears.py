"""int8-linears and its calibration: ranges by network and timestep, methods, refusals, neighbours."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from small_wan import SMALL, forward, relative, small_wan
from torch import nn

import rushes
from rushes.errors import ConfigError, UnknownName
from rushes.models.expert_pair import num_bytes
from rushes.models.wan import Wan, cast_weights
from rushes.passes.calibration import (
    PERCENTILES,
    Ranges,
    calibrate,
    network_key,
    read_calibration,
    write_calibration,
)
from rushes.passes.fp8 import Fp8Linear, Fp8Linears
from rushes.passes.int8 import Int8Linear, Int8Linears
from rushes.passes.plan import Plan, make_pass
from rushes.passes.sparse import SparseAttention

METHODS = ("min-max", "percentile", "smoothquant")


def _file(folder: Path, networks: tuple[Wan, ...] | None = None, num_buckets: int = 1) -> str:
    networks = networks or (small_wan(),)

    def run() -> None:
        for network in networks:
            for timestep in (900.0, 100.0):
                forward(network, timestep=timestep, seed=5)

    file = folder / "ranges.safetensors"
    write_calibration(file, calibrate(networks, run, num_buckets=num_buckets))
    return str(file)


def _ranges(x: torch.Tensor) -> Ranges:
    rows = x.abs().flatten(0, -2)
    return Ranges(
        peaks=rows.amax(0)[None],
        percentiles=torch.quantile(rows.flatten(), torch.tensor(PERCENTILES) / 100)[None],
        weights=torch.zeros(0),
    )


def _layer(linear: nn.Linear, x: torch.Tensor, method: str) -> Int8Linear:
    one = Int8Linears(calibration="unused", method=method)
    return one._replaced({"layer": _ranges(x)}, "layer", linear)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_is_near_its_float32_self(method: str) -> None:
    linear, x = nn.Linear(128, 64), torch.randn(2, 40, 128)
    out = _layer(linear, x, method)(x)
    assert 1e-4 < relative(out, linear(x)) < 0.03


def test_smoothing_pays_where_a_channel_is_an_outlier() -> None:
    linear, x = nn.Linear(128, 64), torch.randn(80, 128)
    x[:, 7] *= 100
    errors = [relative(_layer(linear, x, method)(x), linear(x)) for method in ("smoothquant", "min-max")]
    assert errors[0] < errors[1] / 3


def test_a_percentile_cuts_what_is_beyond() -> None:
    linear, x = nn.Linear(128, 64), torch.randn(800, 128)
    x[3, 5] = 4000
    layer = _layer(linear, x, "percentile")
    assert layer.x_scales[0] * 127 < 10
    others = torch.arange(800) != 3
    assert relative(layer(x)[others], linear(x)[others]) < 0.03
    assert relative(_layer(linear, x, "min-max")(x)[others], linear(x)[others]) > 0.5


def test_ranges_are_those_that_the_layers_met(tmp_path: Path) -> None:
    wan, met = small_wan(), []
    wan.blocks[1].ffn.up.register_forward_pre_hook(lambda _module, args: met.append(args[0]))
    found = calibrate([wan], partial(forward, wan))[network_key(wan)]
    assert len(found) == 3 * 6
    rows = met[0].flatten(0, -2).abs()
    assert torch.equal(found["blocks.1.ffn.up"].peaks, rows.amax(0)[None])
    percentiles = found["blocks.1.ffn.up"].percentiles[0]
    assert percentiles.tolist() == sorted(percentiles.tolist())
    assert 0 < percentiles[-1] <= rows.max()
    forward(wan)
    assert len(met) == 2  # the hooks of calibration are gone, this test's own is not


def test_buckets_hold_the_ranges_of_their_timesteps(tmp_path: Path) -> None:
    file = _file(tmp_path, num_buckets=4)
    peaks = read_calibration(Path(file), small_wan())["blocks.0.ffn.up"].peaks
    assert [bool(row.any()) for row in peaks] == [True, False, False, True]
    wan = Int8Linears(calibration=file, method="min-max").apply(small_wan())
    scales = wan.blocks[0].ffn.up.x_scales * 127
    whole = peaks.amax()
    torch.testing.assert_close(scales, torch.stack([peaks[0].amax(), whole, whole, peaks[3].amax(), whole]))
    phases = [wan.phase(step, 4, timestep) for step, timestep in enumerate((999.0, 600.0, 300.0, 10.0))]
    assert phases == [("timesteps-3",), ("timesteps-2",), ("timesteps-1",), ("timesteps-0",)]
    assert wan.phases == (*phases[:1], *phases[1:])
    outs = [forward(wan, phase=phase) for phase in (phases[0], phases[3], ())]
    assert not torch.equal(outs[0], outs[1])
    assert max(relative(out, forward(small_wan())) for out in outs) < 0.1


def test_each_noise_expert_finds_its_own(tmp_path: Path) -> None:
    high, low = small_wan(), small_wan(seed=9)
    file = Path(_file(tmp_path, (high, low)))
    peaks = [read_calibration(file, network)["blocks.0.self_attn.qkv"].peaks for network in (high, low)]
    assert not torch.equal(*peaks)
    with pytest.raises(ConfigError, match="made for other weights"):
        read_calibration(file, small_wan(seed=2))


def test_a_fine_tune_with_the_same_modulation_is_refused_and_another_dtype_is_not(tmp_path: Path) -> None:
    file = Path(_file(tmp_path))
    assert read_calibration(file, cast_weights(small_wan(), torch.bfloat16))
    tuned = small_wan()
    weight = tuned.blocks[1].cross_attn.out.weight
    weight.data += 0.02 * weight.std() * torch.randn_like(weight)
    with pytest.raises(ConfigError, match=r"other weights than this network's blocks\.1\.cross_attn\.out"):
        read_calibration(file, tuned)


@pytest.mark.parametrize("method", METHODS)
def test_a_forward_stays_near_and_is_smaller(tmp_path: Path, method: str) -> None:
    plain = small_wan()
    wan = Int8Linears(calibration=_file(tmp_path), method=method).apply(small_wan())
    assert 1e-4 < relative(forward(wan), forward(plain)) < 0.1
    layers = [module for module in wan.modules() if isinstance(module, Int8Linear)]
    assert len(layers) == 18
    assert {layer.weight.dtype for layer in layers} == {torch.int8}
    assert num_bytes(wan) < num_bytes(plain) * 0.6
    assert all(not parameter.requires_grad for layer in layers for parameter in layer.parameters())


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Int8Linears(calibration=str(tmp_path / "nothing")).apply(small_wan())
    with pytest.raises(UnknownName, match="did you mean 'min-max'"):
        make_pass("int8-linears", calibration="x", method="minmax")
    with pytest.raises(ConfigError, match=r"percentile 98; choose from 99\.0, 99\.9"):
        make_pass("int8-linears", calibration="x", percentile=98)
    with pytest.raises(ConfigError, match="alpha is 2"):
        make_pass("int8-linears", calibration="x", alpha=2)
    with pytest.raises(ConfigError, match=r"int8-linears: .*calibration"):
        make_pass("int8-linears")
    both = (Fp8Linears(), Int8Linears(calibration=_file(tmp_path)))
    with pytest.raises(ConfigError, match="is a Fp8Linear already"):
        Plan(passes=both).apply("transformer", small_wan())
    odd = small_wan(replace(SMALL, ffn_dim=68))
    one = Int8Linears(calibration=_file(tmp_path, (odd,)))
    with pytest.raises(ConfigError, match=r"ffn\.up: 68 out_features are no multiple of 8"):
        one.apply(odd)


def test_it_composes_with_the_others(tmp_path: Path) -> None:
    passes = (
        Int8Linears(calibration=_file(tmp_path, num_buckets=2), targets=("ffn",)),
        Fp8Linears(targets=("qkv",)),
        SparseAttention(density=0.5, block=4),
    )
    wan = Plan(passes=passes).apply("transformer", small_wan())
    assert isinstance(wan.blocks[0].ffn.up, Int8Linear)
    assert isinstance(wan.blocks[0].self_attn.qkv, Fp8Linear)
    phase = wan.phase(3, 4, 20.0)
    assert phase == ("sparse-attention", "timesteps-0")
    out = forward(wan, frames=6, phase=phase)
    for block in wan.blocks:
        block.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(forward(wan, frames=6, phase=phase), out, rtol=1e-3, atol=1e-4)


def test_the_toy_is_calibrated_by_its_own_clips(tmp_path: Path) -> None:
    clip = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2, "seed": 3}
    model = rushes.load("toy")
    run = partial(model.generate, "a dog", output="latents", **clip)
    file = tmp_path / "ranges.safetensors"
    write_calibration(file, calibrate([model.parts.experts().select(1000.0)], run, num_buckets=2))
    one = Int8Linears(calibration=str(file), targets=("qkv", "attn_out", "cross_q", "cross_out"))
    planned = rushes.load("toy", plan=Plan(passes=(one,)))
    outs = [loaded.generate("a dog", output="latents", **clip).latents for loaded in (planned, model)]
    assert 1e-4 < relative(*outs) < 0.2
