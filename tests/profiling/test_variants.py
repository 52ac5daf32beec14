"""Switches, sweeps and diffusers beside us: what runs, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

import rushes
from rushes.errors import ConfigError, InvalidRequest
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.pipelines.rules import load_rules
from rushes.profiling.against import diffusers_subject
from rushes.profiling.clip import Ask
from rushes.profiling.session import Options, profile
from rushes.profiling.subject import Rushes
from rushes.profiling.sweep import parse_sweep, sweep
from rushes.profiling.tries import parse_try, subjects
from tiny_parts import ROUTED, TinyParts, tiny_model, tiny_rules

TIMED = Options(repeats=1, captures=False)
ASK = Ask(prompt="a dog")


def test_switches_are_measured_beside_the_baseline() -> None:
    net = tiny_model()
    rules = tiny_rules()
    tries = [
        parse_try(text, rules) for text in ("steps=6", "guidance=off", "attention=flash", "dtype=float32")
    ]
    loaded = []

    def open_model(dtype: str) -> rushes.Model:
        loaded.append(dtype)
        return net

    chosen = subjects(net, ASK, tries, open_model)
    with chosen[3].spans():
        backends = {module.backend for module in chosen[3]._attentions()}
    assert backends == {"flash"}
    assert {module.backend for module in chosen[3]._attentions()} == {"auto"}
    assert loaded == ["float32"]
    runs = [session.run for session in profile(chosen, TIMED)]
    assert [run.label for run in runs] == [
        "rushes",
        "steps=6",
        "guidance=off",
        "attention=flash",
        "dtype=float32",
    ]
    units = [{row.part: row.units for row in run.rows if row.stage == "denoise"} for run in runs]
    assert [found["conditional"] for found in units] == [3, 6, 3, 3, 3]
    assert ["unconditional" in found for found in units] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("vae=tiled", "wan2.2-ti2v-5b has no vae 'tiled'"),
        ("vae=tiny", "its vae is 'full'"),
        ("temporal_attention=off", "wan2.2-ti2v-5b has no temporal attention 'off'"),
        ("steps", "is not NAME=VALUE"),
        ("steps=", "is not NAME=VALUE"),
        ("steps=many", "needs int"),
        ("steps=0", "must be a whole number from 1"),
        ("stpes=4", "did you mean 'steps'"),
        ("attention=flesh", "did you mean 'flash'"),
        ("dtype=bf16", "choose from"),
        ("guidance=strong", "needs float"),
        ("guidance_low=2", "unknown 'guidance_low'"),
        ("solver=unpic", "did you mean 'unipc'"),
    ],
)
def test_switches_that_do_not_exist_are_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises((InvalidRequest, ConfigError), match=reason):
        parse_try(text, load_rules("wan2.2-ti2v-5b"))


def test_switches_of_what_every_model_has_change_nothing() -> None:
    rules = load_rules("wan2.2-t2v-a14b")
    for text in ("vae=full", "temporal_attention=on"):
        assert parse_try(text, rules).fields == {}
    assert parse_try("guidance=off", rules).fields == {"guidance_high": 1.0, "guidance_low": 1.0}


def test_a_sweep_fits_how_time_grows() -> None:
    options = Options(repeats=1, ceiling_s=0.001)
    runs, found = sweep(tiny_model(), ASK, "num_inference_steps", (2, 40), options)
    assert [run.label for run in runs] == ["num_inference_steps=2", "num_inference_steps=40"]
    assert (found.size_name, found.sizes) == ("num_inference_steps", (2, 40))
    growth = {each.name: each.exponent for each in found.growths}
    # Steps cost the same each; the decoder does not care.
    assert growth["denoise (stage)"] > growth["vae_decode (stage)"]
    assert 0.5 < growth["denoise (stage)"] < 1.5
    assert all(each > 10**7 for each in found.peak_bytes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("frames=17,33", "unknown 'frames'"),
        ("num_frames", "not numbers"),
        ("num_frames=17", "two values"),
        ("num_frames=17,x", "not numbers"),
        ("num_frames=17,34", "nearest: 33 and 37"),
        ("seed=1,2", "unknown 'seed'"),
        ("solver=unipc,euler", "unknown 'solver'"),
    ],
)
def test_sweeps_that_cannot_be_run_are_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        parse_sweep(text, load_rules("toy"))
    assert parse_sweep("num_frames=33,17", load_rules("toy")) == ("num_frames", (17.0, 33.0))


def test_diffusers_runs_the_same_rows(tmp_path: Path) -> None:
    folder = make_checkpoint("a14b", tmp_path / "a14b")
    net = rushes.load(folder, device="cpu")
    fields = {"width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 6, "seed": 1}
    request = net.job("a dog", **fields).request
    theirs = diffusers_subject(net, "a14b", folder, request, "float32")
    ours = Rushes(net=net, ask=Ask(prompt="a dog", fields=fields))
    options = Options(repeats=1, ceiling_s=0.001, is_short=True)
    mine, other = (session.run for session in profile([ours, theirs], options))
    rows = [{row.name: row for row in run.rows} for run in (mine, other)]
    shared = {
        *(f"denoise: {b}, {e} noise" for b in ("conditional", "unconditional") for e in ("high", "low")),
        "text_encode: encoder",
        "text_encode: tokenizing",
        "vae_decode: first latent",
        "vae_decode: other latents",
        "vae_decode: post-process to uint8",
        "denoise: solver and guidance",
        "video_encode: frames",
    }
    assert shared <= rows[0].keys() & rows[1].keys()
    for name in shared:
        if "noise" in name:
            assert rows[0][name].units == rows[1][name].units
    for run in (mine, other):
        assert sum(row.seconds for row in run.rows) == pytest.approx(run.total_s)
        kinds = {op.kind for op in run.operators if op.stage == "denoise"}
        assert {"self-attention", "cross-attention", "QKV and out", "FFN"} <= kinds
        assert "other" not in kinds
    # The same work, whoever does it; the text's keys and values they make at every step.
    for kind in ("self-attention", "cross-attention", "FFN"):
        work = [sum(op.flops for op in run.operators if op.kind == kind) for run in (mine, other)]
        assert work[0] == pytest.approx(work[1], rel=0.01)


def test_diffusers_is_refused_what_it_cannot_run(tmp_path: Path) -> None:
    net = tiny_model()
    with pytest.raises(InvalidRequest, match="not in diffusers' layout"):
        diffusers_subject(net, "tiny", tmp_path, net.job("a dog").request, "float32")
    routed = tiny_model(TinyParts(transformer=ROUTED))
    with pytest.raises(InvalidRequest, match="token experts"):
        diffusers_subject(routed, "toy", tmp_path, net.job("a dog").request, "float32")
