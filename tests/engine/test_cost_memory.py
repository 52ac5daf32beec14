"""Predicted device memory against runs on an H200 and against live tensors."""

import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rushes.engine.memory import (
    DeviceMemory,
    activation_bytes,
    context_bytes,
    job_memory,
    weights_bytes,
)
from rushes.engine.shapes import UMT5_XXL, WAN22_T2V_A14B, WAN22_TI2V_5B, WAN22_VAE, ModelShape
from rushes.engine.vae_work import decode_work
from rushes.models.configs import WanConfig
from rushes.models.umt5 import UMT5Config, build_umt5
from rushes.models.wan import Wan, cast_weights, keep_float32
from rushes.models.wan_vae import WanVAE
from rushes.pipelines.rules import load_rules, resolve

GB = 1e9
A14B, TI2V_5B = "wan2.2-t2v-a14b", "wan2.2-ti2v-5b"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "wan_h200_generation.json"
TINY = WanConfig(
    num_layers=3,
    num_attention_heads=4,
    attention_head_dim=32,
    in_channels=16,
    out_channels=16,
    ffn_dim=512,
    text_dim=64,
    text_len=32,
)


def request_of(pipeline=A14B, width=832, height=480, preset="quality", **fields):
    return resolve(load_rules(pipeline), "x", preset=preset, width=width, height=height, seed=1, **fields)


def actual_peak(figures):
    return max(value for name, value in figures.items() if name.endswith("peak memory [GB]"))


def test_peaks_of_a_run_on_an_h200_are_predicted_within_a_thousandth():
    """A14B at 480p, 4 steps; of denoiser and decoder. Nothing was guided, so nothing was pinned."""
    figures = json.loads(RESULTS.read_text())["parts"]["generation"]["figures"]
    memory = job_memory(request_of(preset="distilled-4"), WAN22_T2V_A14B)
    assert memory.weights / GB == pytest.approx(figures["weights at rest [GB]"], rel=0.01)
    for stage in ("denoise", "vae_decode"):
        predicted = memory.weights + memory.held[stage] + memory.working[stage]
        actual = figures[f"{stage}, peak memory [GB]"]
        assert predicted / GB == pytest.approx(actual, rel=0.001)
    assert memory.peak_bytes / GB == pytest.approx(actual_peak(figures) + memory.shared / GB, rel=0.001)


@pytest.mark.parametrize("shape", [WAN22_T2V_A14B, WAN22_TI2V_5B])
def test_weights_are_counted_to_the_byte(shape):
    with torch.device("meta"):
        wan, vae = Wan(shape.transformer), WanVAE(shape.vae)
    expert = sum(p.numel() * (4 if keep_float32(name) else 2) for name, p in wan.named_parameters())
    assert shape.vae_parameters == sum(p.numel() for p in vae.parameters())
    others = 2 * (shape.vae_parameters + UMT5_XXL.num_parameters)
    assert weights_bytes(shape) == shape.num_experts * expert + others
    swapped = replace(shape, is_swapped=True)
    assert weights_bytes(swapped) == expert + others
    streamed = replace(shape, is_text_streamed=True)
    assert weights_bytes(streamed) == shape.num_experts * expert + 2 * shape.vae_parameters


def test_a_streamed_text_encoder_takes_a_block_at_a_time():
    with torch.device("meta"):
        block = build_umt5(UMT5Config(num_layers=1)).get_submodule("encoder.block.0")
    matrices = (
        sum(p.nbytes for p in block.parameters() if p.ndim == 2 and min(p.shape) > 64) // 2
    )  # float32 on meta
    request = request_of(TI2V_5B, 1280, 704)
    plain, streamed = (
        job_memory(request, replace(WAN22_TI2V_5B, is_text_streamed=kind)) for kind in (False, True)
    )
    assert streamed.working["text_encode"] - plain.working["text_encode"] == matrices
    assert plain.peak_bytes - streamed.peak_bytes == 2 * UMT5_XXL.num_parameters


def test_the_5b_model_runs_in_24_gb_with_2_to_spare_when_its_text_encoder_is_streamed():
    request = request_of(TI2V_5B, 1280, 704)
    resident, streamed = (
        DeviceMemory({TI2V_5B: replace(WAN22_TI2V_5B, is_text_streamed=kind)}, 24 * GB)
        for kind in (False, True)
    )
    assert not resident.fits(request)
    assert streamed.fits(request)
    assert not streamed.fits(request, [request])


class Live(TorchDispatchMode):
    """Follows the bytes of tensors that are made inside, to their peak."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._sizes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)
        }
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in inputs:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage):
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, name):
        self.now -= self._sizes.pop(name)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("ffn_dim", [128, 512])
def test_activations_are_those_that_live_in_a_forward(dtype, ffn_dim):
    config = replace(TINY, ffn_dim=ffn_dim)
    model = cast_weights(Wan(config).eval().requires_grad_(False), dtype)
    context = model.encode_text(torch.randn(1, 32, 64))
    latents = torch.randn(1, 16, 5, 16, 16)
    with Live() as live:
        model(latents, torch.tensor([500.0]), context)
    shape = ModelShape(
        transformer=config, vae=WAN22_VAE, text=UMT5_XXL, vae_parameters=0, value_bytes=dtype.itemsize
    )
    assert live.peak == pytest.approx(activation_bytes(shape, 5 * 64), rel=0.06)


@torch.no_grad()
def test_a_decoder_needs_little_more_than_is_said_on_the_cpu():
    """Where norms are made of several operations and a convolution adds up its taps; a GPU does neither."""
    config = replace(WAN22_VAE, base_dim=8, decoder_base_dim=16, num_res_blocks=1)
    vae, state = WanVAE(config).eval().requires_grad_(False), None
    for number in range(3):
        latent = torch.randn(1, config.z_dim, 1, 8, 12)
        with Live() as live:
            _, state = vae.decode_step(latent, state)
        working = 4 * decode_work(config, 8, 12, is_first=number == 0, value_bytes=4).working_values
        assert working <= live.peak <= 1.25 * working


def memory_of(budget_gb, *pipelines, **options):
    shapes = {A14B: WAN22_T2V_A14B, TI2V_5B: WAN22_TI2V_5B}
    return DeviceMemory({name: shapes[name] for name in pipelines or (A14B,)}, int(budget_gb * GB), **options)


def test_two_gigabytes_stay_free():
    request = request_of()
    needed = memory_of(141).needed_bytes([request]) / GB
    assert not memory_of(needed + 1.9).fits(request)
    assert memory_of(needed + 2.1).fits(request)
    assert memory_of(needed + 0.6, reserve_bytes=5 * 10**8).fits(request)


def test_weights_of_other_models_take_their_place():
    alone = memory_of(141).needed_bytes([request_of()])
    beside = memory_of(141, A14B, TI2V_5B).needed_bytes([request_of()])
    assert beside - alone == weights_bytes(WAN22_TI2V_5B)


def test_jobs_that_begun_hold_what_they_hold_and_one_denoises_while_another_is_decoded():
    one, two, three, four = (memory_of(141).needed_bytes([request_of()] * n) for n in range(1, 5))
    memory = job_memory(request_of(), WAN22_T2V_A14B)
    assert one == memory.peak_bytes
    held, working = max(memory.held.values()), memory.working
    together = working["denoise"] + working["vae_decode"]
    assert two == memory.weights + memory.shared + 2 * held + together
    assert three - two == held + working["text_encode"]
    assert four - three == held
    in_turn = memory_of(141, overlaps=False).needed_bytes([request_of()] * 2)
    assert two - in_turn == working["vae_decode"]
    batched = memory_of(141, max_batch=2).needed_bytes([request_of()] * 2)
    assert batched - two == pytest.approx(working["denoise"] + 2 * 0.42 * GB, rel=0.02)


def test_small_clips_that_are_decoded_together_are_counted_together():
    small, large = request_of(width=256, height=256), request_of()
    memory = job_memory(small, WAN22_T2V_A14B)
    options = {"overlaps": True, "reserve_bytes": 0}
    alone, batched = (memory_of(141, max_batch=size, **options).needed_bytes([small] * 2) for size in (1, 2))
    denoised = memory.working["denoise"] + 2 * context_bytes(WAN22_T2V_A14B)
    decoded = memory.working["vae_decode"] + 2 * memory.held["vae_decode"]
    assert batched - alone == denoised + decoded
    compiled = replace(WAN22_T2V_A14B, decodes_batches=False)
    one_by_one = DeviceMemory({A14B: compiled}, int(141 * GB), max_batch=2, **options)
    assert batched - one_by_one.needed_bytes([small] * 2) == decoded
    alone, batched = (memory_of(141, max_batch=size, **options).needed_bytes([large] * 2) for size in (1, 2))
    shared = job_memory(large, WAN22_T2V_A14B).working["denoise"] + 2 * context_bytes(WAN22_T2V_A14B)
    assert batched - alone == shared, "of a large clip none is decoded beside another"


def test_the_negative_prompt_is_held_once_for_all():
    guided, plain = (
        job_memory(request_of(preset=name), WAN22_T2V_A14B) for name in ("quality", "distilled-4")
    )
    assert guided.shared == 2 * context_bytes(WAN22_T2V_A14B)
    assert plain.shared == guided.shared, "an earlier job's stays pinned"
    assert context_bytes(WAN22_T2V_A14B) / GB == pytest.approx(0.419 + 0.004, rel=0.01)


def test_a_causal_clip_holds_its_cache():
    """facts/wan22.md: 13.0 GB for 5B at 704p with 40 latent frames."""
    request = request_of(TI2V_5B, 1280, 704, num_frames=157)
    causal = replace(request, mode="causal")
    sampling = replace(request.sampling, guidance_high=1.0, guidance_low=1.0)
    held = job_memory(replace(causal, sampling=sampling), WAN22_TI2V_5B).held["denoise"]
    assert held / GB == pytest.approx(13.0 + 3.3 + 0.4, rel=0.05)
    assert job_memory(causal, WAN22_TI2V_5B).held["denoise"] > held + 12 * GB


def test_an_observed_peak_corrects_at_once_upwards_and_slowly_downwards():
    memory, request = memory_of(141), request_of()
    weights, before = memory.weights_bytes, memory.needed_bytes([request])
    memory.observe([request], weights + int(1.3 * (before - weights)))
    assert memory.needed_bytes([request]) - weights == pytest.approx(1.3 * (before - weights), rel=0.01)
    memory.observe([request], before)
    after = memory.needed_bytes([request])
    assert before < after < weights + 1.3 * (before - weights)
    for _ in range(30):
        memory.observe([request], before)
    assert memory.needed_bytes([request]) == pytest.approx(before, rel=0.01)
    memory.observe([request], 0)
    assert memory.needed_bytes([request]) == pytest.approx(before, rel=0.01)


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(0, 30), rows=st.integers(4, 40), columns=st.integers(4, 70), more=st.integers(1, 8))
def test_a_larger_clip_never_needs_less(frames, rows, columns, more):
    def needed(frames, rows, columns):
        request = request_of(width=16 * columns, height=16 * rows, num_frames=4 * frames + 1)
        return memory_of(141).needed_bytes([request])

    least = needed(frames, rows, columns)
    assert needed(frames + more, rows, columns) > least
    assert needed(frames, rows + more, columns) > least
    assert needed(frames, rows, columns + more) > least
