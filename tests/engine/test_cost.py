"""Work counted from shapes, and the seconds that a device is learned to take for it."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from rushes.engine.cost import CostModel
from rushes.engine.degrade import Limits, degrade
from rushes.engine.rates import CPU, H200, StageFit, rates_for
from rushes.engine.shapes import (
    UMT5_XXL,
    WAN21_T2V_1_3B,
    WAN21_VAE,
    WAN22_T2V_A14B,
    WAN22_TI2V_5B,
    WAN22_VAE,
    ModelShape,
)
from rushes.engine.units import spans_of
from rushes.engine.vae_work import decode_work
from rushes.engine.work import Work, context_work, forward_work, joint_work, text_work
from rushes.errors import ConfigError, UnknownName
from rushes.models.configs import WanConfig, WanVAEConfig
from rushes.models.wan import Wan
from rushes.models.wan_vae import WanVAE
from rushes.pipelines.rules import load_rules, resolve
from rushes.sampling.step_cache import StepCache, new_cache, plan_step
from rushes.stages.base import BatchKey
from rushes.types import LatentSource

TERA = 1e12
A14B, TI2V_5B = "wan2.2-t2v-a14b", "wan2.2-ti2v-5b"
SHAPES = {A14B: WAN22_T2V_A14B, TI2V_5B: WAN22_TI2V_5B}

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
TINY_VAE = WanVAEConfig(base_dim=8, num_res_blocks=1)
TINY_VAE_22 = WanVAEConfig(
    base_dim=8, decoder_base_dim=16, z_dim=48, num_res_blocks=1, is_residual=True, patch_size=2
)
TINY_SHAPE = ModelShape(transformer=TINY, vae=TINY_VAE, text=UMT5_XXL, vae_parameters=10**6, value_bytes=4)


def request_of(pipeline, width=832, height=480, preset="quality", **fields):
    return resolve(load_rules(pipeline), "x", preset=preset, width=width, height=height, seed=1, **fields)


# Work.


@pytest.mark.parametrize(
    ("shape", "tokens", "linear", "self_attention", "total"),
    [
        (WAN22_T2V_A14B, 32_760, 785, 879, 1678),
        (WAN22_T2V_A14B, 75_600, 1810, 4682, 6523),
        (WAN22_TI2V_5B, 27_280, 237, 274, 517),
        (WAN21_T2V_1_3B, 32_760, 82, 198, 283),
    ],
)
def test_a_forward_is_what_a_counter_counted(shape, tokens, linear, self_attention, total):
    """The table of facts/wan22.md, to its rounding; it counts the text's keys to every forward."""
    config = shape.transformer
    work = forward_work(shape, tokens) + context_work(shape)
    cross = 4 * tokens * config.text_len * config.dim * config.num_layers
    assert work.linear / TERA == pytest.approx(linear, abs=0.6)
    assert (work.attention - cross) / TERA == pytest.approx(self_attention, abs=0.6)
    assert work.flops / TERA == pytest.approx(total, abs=0.6)


@pytest.mark.parametrize(
    ("vae", "rows", "columns", "first", "other"),
    [(WAN21_VAE, 60, 104, 4.35, 13.55), (WAN22_VAE, 44, 80, 20.6, 66.4)],
)
def test_decoding_is_what_a_counter_counted(vae, rows, columns, first, other):
    for is_first, expected in ((True, first), (False, other)):
        unit = decode_work(vae, rows, columns, is_first=is_first, value_bytes=2)
        assert unit.work.flops / TERA == pytest.approx(expected, rel=0.005)


@torch.no_grad()
def test_a_dense_forward_agrees_with_torchs_counter():
    """Which counts no attention on the CPU, but the time path that is left out here."""
    model = Wan(TINY).eval()
    context = model.encode_text(torch.randn(1, 32, 64))
    latents = torch.randn(1, 16, 5, 20, 20)
    with FlopCounterMode(display=False) as counter:
        model(latents, torch.tensor([500.0]), context)
    assert counter.get_total_flops() == pytest.approx(forward_work(TINY_SHAPE, 5 * 100).linear, rel=0.01)
    with FlopCounterMode(display=False) as counter:
        model.encode_text(torch.randn(1, 32, 64))
    assert counter.get_total_flops() == context_work(TINY_SHAPE).linear


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY_VAE, TINY_VAE_22])
def test_decoding_agrees_with_torchs_counter_and_the_state_that_is_kept(config):
    vae, state = WanVAE(config).eval(), None
    for number in range(3):
        with FlopCounterMode(display=False) as counter:
            _, state = vae.decode_step(torch.randn(1, config.z_dim, 1, 8, 12), state)
        unit = decode_work(config, 8, 12, is_first=number == 0, value_bytes=4)
        assert counter.get_total_flops() == pytest.approx(unit.work.linear + unit.work.conv, rel=0.01)
        assert sum(tensor.numel() for tensor in state.past) == unit.state_values


def test_a_batch_shares_the_layers_of_a_forward_and_texts_share_nothing():
    forward = forward_work(TINY_SHAPE, 100)
    joint = joint_work("denoise", [forward, forward * 2])
    assert joint.linear == 3 * forward.linear
    assert joint.layers == 2 * forward.layers
    assert joint_work("vae_decode", [Work(layers=33), Work(layers=33)]).layers == 33
    assert joint_work("text_encode", [Work(layers=33), Work(layers=33)]).layers == 66


def test_work_can_be_compared_across_pipelines():
    assert text_work(WAN22_T2V_A14B).linear / TERA == pytest.approx(4.74, rel=0.01)


# Units.


def test_units_of_a_whole_clip():
    spans = spans_of(request_of(A14B, num_inference_steps=40), WAN22_T2V_A14B)
    assert {name: sum(span.count for span in of) for name, of in spans.items()} == {
        "text_encode": 1,
        "denoise": 40,
        "vae_decode": 21,
        "video_encode": 21,
    }
    forward, context = forward_work(WAN22_T2V_A14B, 32_760), context_work(WAN22_T2V_A14B)
    works = [span.work for span in spans["denoise"]]
    assert works == [forward * 2 + context, forward * 2] * 2, "each expert makes the text's keys anew"
    assert sum(span.work.pixels for span in spans["video_encode"][:1]) == 832 * 480


def test_a_distilled_clip_runs_one_forward_a_step():
    spans = spans_of(request_of(A14B, preset="distilled-4"), WAN22_T2V_A14B)
    assert spans["denoise"][1].work == forward_work(WAN22_T2V_A14B, 32_760)
    assert [span.count for span in spans["denoise"]] == [1, 1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(
    num_steps=st.integers(1, 50),
    gate=st.floats(0.01, 1.0),
    shift=st.floats(0.5, 15.0),
    guidance=st.tuples(st.sampled_from([1.0, 4.0]), st.sampled_from([1.0, 3.0])),
    boundary=st.sampled_from([None, 0.875]),
)
def test_forwards_are_those_that_a_job_plans(num_steps, gate, shift, guidance, boundary):
    """Step by step as `Denoise` asks `plan_step`, with a cache that begins anew at the boundary."""
    request = request_of(A14B, num_inference_steps=num_steps, guidance_gate=gate, flow_shift=shift)
    sampling = replace(request.sampling, guidance_high=guidance[0], guidance_low=guidance[1])
    shape = replace(TINY_SHAPE, boundary=boundary)
    spans = spans_of(replace(request, sampling=sampling), shape)["denoise"]
    works = [span.work for span in spans for _ in range(span.count)]
    context, forward = context_work(shape), forward_work(shape, 32_760)
    is_new = [bool((work.linear - context.linear) % forward.linear == 0) for work in works]
    cache, forwards = None, []
    for step, starts in enumerate(is_new):
        if starts:
            cache = new_cache(sampling)
        scale = guidance[0] if boundary is None or sum(is_new[: step + 1]) == 1 else guidance[1]
        if boundary is not None and sum(is_new) == 1 and shift < 0.6:
            return  # the low-noise expert alone: rare, and not told apart here
        plan = plan_step(cache, sampling, step, change=None, is_guided=scale != 1.0)
        if cache is not None and plan.runs_unconditional:
            cache = StepCache(guidance=torch.zeros(1))
        forwards.append(plan.runs_conditional + plan.runs_unconditional)
    assert [round(work.attention / forward.attention) for work in works] == forwards


def test_a_causal_clip_costs_more_with_every_frame():
    request = resolve(load_rules("toy"), "x", mode="causal", num_frames=13, num_inference_steps=3)
    spans = spans_of(request, TINY_SHAPE)["denoise"]
    units = [span.work for span in spans for _ in range(span.count)]
    assert len(units) == 4 * 3
    per_frame = [units[3 * frame + 1].attention for frame in range(4)]
    assert all(before < after for before, after in pairwise(per_frame))
    forward = forward_work(TINY_SHAPE, 12 * 8, 2 * 12 * 8)
    assert units[4] == forward * 2, "guided: two forwards"
    assert units[3] == forward * 4, "and two more that write the keys of the frame before"
    assert sum(unit.layers for unit in units) == 3 * 2 * (12 + 3) + 3, "nobody reads the last frame's keys"


# Seconds.


@pytest.mark.parametrize(
    ("pipeline", "tokens", "measured_s"),
    [(A14B, 32_760, 3.155), (A14B, 75_600, 11.768), (A14B, 4_680, 0.276), (TI2V_5B, 27_280, 1.037)],
)
def test_an_h200_starts_near_what_was_measured(pipeline, tokens, measured_s):
    cost = CostModel(H200, SHAPES)
    seconds = cost.seconds(pipeline, "denoise", forward_work(SHAPES[pipeline], tokens))
    assert seconds == pytest.approx(measured_s, rel=0.04)


def test_a_prediction_adds_up():
    prediction = CostModel(H200, SHAPES).predict(request_of(A14B))
    stages = prediction.stages
    assert prediction.total_s == pytest.approx(252.4 + 1.2, rel=0.03)
    assert prediction.total_s == pytest.approx(
        sum(stages[name].total_s for name in ("text_encode", "denoise", "vae_decode"))
    )
    assert stages["denoise"].first_unit_s > prediction.unit_s("denoise", 1)
    units = [prediction.unit_s("denoise", done) for done in range(40)]
    assert sum(units) == pytest.approx(stages["denoise"].total_s)
    left = [prediction.remaining_s({"text_encode": 1, "denoise": done}) for done in range(41)]
    assert [a - b for a, b in pairwise(left)] == pytest.approx(units)
    assert prediction.unit_s("denoise", 40) == 0.0
    assert prediction.unit_work("denoise", 40) == Work()
    assert prediction.remaining_s({"text_encode": 1, "denoise": 40, "vae_decode": 21}) == 0.0


def test_a_pipeline_without_a_shape_is_named():
    with pytest.raises(UnknownName, match=r"wan2\.1-t2v-1\.3b.*choose from"):
        CostModel(H200, SHAPES).predict(request_of("wan2.1-t2v-1.3b"))


def device(factors, *, layer_s=0.0, noise=0.03, seed=0):
    """Seconds of a work on a device that nobody knows: other rates, and noise."""
    rng = random.Random(seed)

    def seconds(work):
        kinds = CPU.seconds("denoise", work)
        mean = sum(factor * part for factor, part in zip(factors, kinds, strict=True))
        return (mean + layer_s * work.layers) * rng.uniform(1 - noise, 1 + noise)

    return seconds


def works(number, seed):
    rng = random.Random(seed)
    return [forward_work(TINY_SHAPE, rng.randrange(100, 20_000)) for _ in range(number)]


def relative_error(fit, work, seconds):
    return abs(fit.predict(work) / seconds - 1)


SLOW = (9.0, 25.0, 5.0, 12.0, 1.0, 3.0)


def test_one_unit_is_enough_to_leave_the_start_value():
    fit, take, (work,) = StageFit("denoise", CPU), device(SLOW), works(1, 1)
    assert relative_error(fit, work, take(work)) > 0.8
    fit.observe(work, take(work))
    assert relative_error(fit, work, take(work)) < 0.1


def test_twenty_unseen_shapes_are_within_15_percent_after_eight_seen():
    fit, take = StageFit("denoise", CPU), device(SLOW, layer_s=0.002)
    for work in works(8, seed=2) * 3:
        fit.observe(work, take(work))
    true = device(SLOW, layer_s=0.002, noise=0.0)
    errors = sorted(relative_error(fit, work, true(work)) for work in works(20, seed=3))
    assert errors[17] < 0.15, "90 % of them"
    assert errors[-1] < 0.3


def test_hiccups_do_not_show():
    fit, take, rng = StageFit("denoise", CPU), device(SLOW), random.Random(4)
    for work in works(8, seed=2) * 5:
        fit.observe(work, take(work) * (8.0 if rng.random() < 0.15 else 1.0))
    true = device(SLOW, noise=0.0)
    errors = sorted(relative_error(fit, work, true(work)) for work in works(20, seed=3))
    assert errors[17] < 0.15


def test_a_cold_first_unit_is_forgotten_with_the_second():
    fit, (work,) = StageFit("denoise", CPU), works(1, 1)
    fit.observe(work, 30.0)
    fit.observe(work, 2.0)
    assert fit.predict(work) == pytest.approx(2.0, rel=0.1)


def test_a_device_that_slows_down_is_followed_within_three_units():
    fit, (work,) = StageFit("denoise", CPU), works(1, 1)
    for seconds in (2.0, 2.1, 1.9, 2.0, 2.0, 3.0, 3.1, 2.9):
        fit.observe(work, seconds)
    assert fit.predict(work) == pytest.approx(3.0, rel=0.1)


def test_what_is_remembered_is_bounded():
    fit = StageFit("denoise", CPU)
    for tokens in range(100, 500):
        fit.observe(forward_work(TINY_SHAPE, tokens), 1.0)
    assert len(fit.to_json()) == 256


def test_predictions_follow_what_is_learned():
    cost = CostModel(CPU, {"toy": TINY_SHAPE})
    prediction = cost.predict(resolve(load_rules("toy"), "x"))
    before = prediction.total_s
    work = prediction.unit_work("denoise", 1)
    for _ in range(3):
        cost.observe("toy", "denoise", [work], 100 * prediction.unit_s("denoise", 1))
    assert prediction.total_s > 10 * before


def test_what_was_learned_survives_as_json():
    cost, other = (CostModel(CPU, {"toy": TINY_SHAPE}) for _ in range(2))
    for work in works(5, seed=1) * 3:
        cost.observe("toy", "denoise", [work], device(SLOW)(work))
    other.load(cost.to_json())
    (unseen,) = works(1, seed=9)
    assert other.seconds("toy", "denoise", unseen) == pytest.approx(cost.seconds("toy", "denoise", unseen))
    with pytest.raises(ConfigError, match="NVIDIA H200"):
        other.load({"device": "NVIDIA H200", "learned": {}})


def test_an_unknown_gpu_starts_as_an_h200():
    assert rates_for("cpu") is CPU
    assert rates_for("NVIDIA H100").linear == H200.linear
    assert rates_for("NVIDIA H100").device == "NVIDIA H100"


# Batches.


def key_of(pipeline, shape, **fields):
    return BatchKey(stage="denoise", pipeline=pipeline, latent_shape=shape, **fields)


def test_a_batch_of_two_takes_twice_as_long_on_a14b_and_hardly_longer_for_small_clips():
    cost = CostModel(H200, {**SHAPES, "toy": replace(TINY_SHAPE, value_bytes=2)})
    large, small = key_of(A14B, (16, 21, 60, 104)), key_of("toy", (16, 9, 16, 24))
    assert cost.batch_seconds(large, 6.2, 2) == pytest.approx(2 * 6.2, rel=0.01)
    alone_s = cost.seconds("toy", "denoise", forward_work(cost.shape("toy"), 9 * 96))
    assert cost.batch_seconds(small, alone_s, 8) < 2 * alone_s
    guided_s = 2 * alone_s
    assert cost.batch_seconds(small, guided_s, 8) == pytest.approx(
        2 * cost.batch_seconds(small, alone_s, 8), rel=0.01
    )


def decode_key(pipeline, shape, **fields):
    return BatchKey(stage="vae_decode", pipeline=pipeline, latent_shape=shape, **fields)


def test_eight_small_clips_are_decoded_in_little_more_than_one_and_two_large_ones_in_twice_as_long():
    toy = replace(TINY_SHAPE, value_bytes=2)
    cost = CostModel(H200, {**SHAPES, "toy": toy, "compiled": replace(toy, decodes_batches=False)})
    for is_start in (True, False):
        work = decode_work(toy.vae, 16, 24, is_first=is_start, value_bytes=2).work
        alone_s = cost.seconds("toy", "vae_decode", work)
        small = decode_key("toy", (16, 9, 16, 24), is_start=is_start)
        assert cost.batch_seconds(small, alone_s, 8) < 2.5 * alone_s
        compiled = decode_key("compiled", (16, 9, 16, 24), is_start=is_start)
        assert cost.batch_seconds(compiled, alone_s, 8) == pytest.approx(8 * alone_s)
    large = decode_key(A14B, (16, 21, 60, 104))
    assert cost.batch_seconds(large, 0.059, 2) == pytest.approx(2 * 0.059)


def test_no_more_clips_are_decoded_together_than_fill_a_card():
    cost = CostModel(H200, SHAPES)
    medium = decode_key(A14B, (16, 21, 32, 32))
    four_s = cost.batch_seconds(medium, 0.01, 4)
    assert four_s < 4 * 0.01
    assert cost.batch_seconds(medium, 0.01, 5) == pytest.approx(5 * 0.01)


def test_nothing_else_saves_anything_in_a_batch():
    cost = CostModel(H200, SHAPES)
    for key in (
        BatchKey(stage="vae_decode", pipeline=A14B, latent_shape=(16, 21, 60, 104)),
        BatchKey(stage="text_encode", pipeline=A14B),
        key_of(A14B, (16, 3, 60, 104), alone=7),
    ):
        assert cost.batch_seconds(key, 0.3, 4) == pytest.approx(1.2)


def test_what_batches_save_is_learned_from_batches():
    """On this device a layer costs ten times what the rates expect beside its work."""
    cost = CostModel(CPU, {"toy": TINY_SHAPE})
    work, key = forward_work(TINY_SHAPE, 108), key_of("toy", (16, 3, 12, 12))
    take = device((1.0,) * 6, layer_s=0.004, noise=0.0)
    for size in (1, 2, 4, 8):
        for _ in range(3):
            cost.observe("toy", "denoise", [work] * size, take(joint_work("denoise", [work] * size)))
    alone_s, eight_s = take(work), take(joint_work("denoise", [work] * 8))
    assert eight_s < 8 * alone_s / 1.5
    assert cost.batch_seconds(key, alone_s, 8) == pytest.approx(eight_s, rel=0.2)


@pytest.mark.parametrize("pipeline", [A14B, TI2V_5B])
def test_steps_before_a_source_are_not_counted(pipeline):
    """They are the whole clip's last ones; the first of them makes the text's keys."""
    asked = resolve(load_rules(pipeline), "a dog")
    step = 5
    source = LatentSource(name="n", sigma=0.9, step=step, is_renoised=True)
    whole, rest = (spans_of(each, SHAPES[pipeline]) for each in (asked, replace(asked, source=source)))
    steps, fewer = (
        [span.work for span in spans["denoise"] for _ in range(span.count)] for spans in (whole, rest)
    )
    assert len(fewer) == len(steps) - step
    assert fewer[1:] == steps[step + 1 :]
    assert fewer[0] == steps[step] + context_work(SHAPES[pipeline])
    assert {**rest, "denoise": ()} == {**whole, "denoise": ()}


def test_a_smaller_clip_goes_on_from_no_source():
    rules = load_rules(A14B)
    source = LatentSource(name="n", sigma=0.9, step=5, is_renoised=True)
    asked = replace(resolve(rules, "a dog"), source=source)
    smaller = degrade(asked, rules, lambda each: each.video.num_frames < 81, Limits())
    assert smaller is not None
    assert smaller.source is None
