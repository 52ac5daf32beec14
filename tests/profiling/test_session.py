"""What a profile promises: rows add up, shares follow, a short run says what it extrapolates."""

from __future__ import annotations

import pytest

from rushes.profiling.clip import Ask, run_clip, scale_of, short_request
from rushes.profiling.device import CpuDevice
from rushes.profiling.operators import GAPS, top
from rushes.profiling.rows import keyed
from rushes.profiling.session import Session
from rushes.profiling.stage_table import tally
from rushes.profiling.subject import Rushes
from rushes.trace import is_on
from tiny_parts import TinyParts, tiny_model

STAGES = {"text_encode", "denoise", "vae_decode", "video_encode", "request"}


@pytest.mark.parametrize("name", ["dense", "routed"])
def test_everything_adds_up(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name).run
    assert sum(row.seconds for row in run.rows) == pytest.approx(run.total_s)
    assert {row.stage for row in run.rows} == STAGES
    for stage in STAGES:
        wall = sum(row.seconds for row in run.rows if row.stage == stage)
        # Operators and what is around them make up the wall time of their stage.
        assert sum(op.seconds for op in run.operators if op.stage == stage) == pytest.approx(wall)
    device = sum(op.seconds for op in run.operators if op.resource != GAPS)
    assert device == pytest.approx(run.device_s)
    assert run.flame is not None
    assert run.flame.seconds == pytest.approx(run.device_s)
    assert all(0 <= (row.device_s or 0.0) <= row.seconds for row in run.rows)
    assert run.explained is not None
    assert run.explained >= 0.98
    assert run.ideal_s is not None
    assert 0 < run.ideal_s < run.total_s


def test_the_timeline_is_the_wall_time_of_the_clip(dense: Session) -> None:
    for clip, total in zip(dense.clips, dense.run.totals, strict=True):
        root = clip.times[0]
        assert root.span.name == "request"
        assert total == pytest.approx(root.span.seconds, rel=0.01)
        assert sum(time.own_s for time in clip.times) == pytest.approx(clip.seconds)
    assert sorted(dense.run.totals)[1] == dense.run.total_s


def test_rows_count_their_units(dense: Session, routed: Session) -> None:
    units = {row.name: (row.units, row.measured) for row in dense.run.rows}
    assert units["denoise: conditional"] == units["denoise: unconditional"] == (3, 3)
    assert units["vae_decode: first latent"] == (1, 1)
    assert units["vae_decode: other latents"] == (2, 2)
    assert units["text_encode: encoder"] == (1, 1)
    units = {row.name: (row.units, row.measured) for row in routed.run.rows}
    assert units["denoise: conditional"] == units["denoise: solver and guidance"] == (7, 2)
    assert routed.run.is_short


def test_stacks_name_the_python_line(dense: Session, routed: Session) -> None:
    lines = {op.line.rsplit(":", 1)[0] for op in dense.run.raw if op.stage == "denoise"}
    assert "rushes/models/wan_blocks.py" in lines
    assert not any("torch/" in op.line or "profiling/" in op.line for op in dense.run.raw)
    assert all(op.line.rsplit(":", 1)[1].isdigit() for op in dense.run.raw if op.line)
    assert not any(op.line for op in routed.run.raw)


def test_sorting(dense: Session) -> None:
    by_calls = top(dense.run.raw, "calls", 5)
    assert [op.calls for op in by_calls] == sorted((op.calls for op in dense.run.raw), reverse=True)[:5]


def test_peaks_and_ceilings(dense: Session) -> None:
    assert {peak.stage for peak in dense.run.peaks if peak.num_bytes > 10**7} == STAGES - {"request"}
    resources = {(ceiling.resource, ceiling.dtype) for ceiling in dense.run.ceilings}
    assert {("copy", ""), ("gemm", "float32"), ("attention", "float32"), ("conv", "float32")} <= resources
    assert all(ceiling.rate > 0 for ceiling in dense.run.ceilings)


def test_a_short_run_covers_both_experts_and_scales_to_the_whole() -> None:
    net = tiny_model(TinyParts(boundary=0.9), boundary=0.9)
    ask = Ask(prompt="a dog", fields={"num_inference_steps": 10, "num_frames": 17})
    short = short_request(net.job(ask.prompt, **ask.fields).request, 0.9)
    assert short.sampling.timesteps is not None
    assert [t >= 900 for t in short.sampling.timesteps] == [True, True, False, False]
    run_clip(net, ask, CpuDevice(), is_short=True)  # the negative prompt stays encoded from now on
    clip = run_clip(net, ask, CpuDevice(), is_short=True)
    whole = run_clip(net, ask, CpuDevice(), is_short=False)
    scale = scale_of(clip, 0.9)
    assert sum(2 * steps for steps in scale.steps.values()) == 10
    scaled, counted = tally(clip.times, scale), tally(whole.times, scale_of(whole, 0.9))
    for key, row in counted.items():
        if key.stage == "denoise" or key.part == "other latents":
            assert round(scaled[key].units) == row.measured, key
    assert scale.latents == pytest.approx(8 / 2)


def test_causal_clips_have_cache_writes() -> None:
    net = tiny_model()
    clip = run_clip(net, Ask(prompt="a dog", fields={"mode": "causal"}), CpuDevice(), is_short=False)
    parts = [key.part for key, time in keyed(clip.times) if time.span.name == "forward"]
    assert parts.count("cache write") == 4  # two latent frames that another follows, two branches
    assert parts.count("conditional") == parts.count("unconditional") == 9


def test_nothing_is_left_behind(dense: Session) -> None:
    net = tiny_model()
    before = net.pipeline.embeddings.max_bytes
    stages = [dict(vars(stage)) for stage in net.pipeline.stages(net.job("a dog"))]
    with Rushes(net=net, ask=Ask(prompt="a dog"), attention="sdpa").spans():
        run_clip(net, Ask(prompt="a dog"), CpuDevice(), is_short=True)
    assert [dict(vars(stage)) for stage in net.pipeline.stages(net.job("a dog"))] == stages
    assert net.pipeline.embeddings.max_bytes == before
    assert not is_on()
