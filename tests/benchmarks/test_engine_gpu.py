"""The engine's GPU benchmark: its code proven on the CPU in tiny shapes, its true shapes by arithmetic."""

import json

import pytest
import torch
from benchmarks.engine_gpu_cost import CALIBRATION, CLIPS, TESTS
from benchmarks.engine_gpu_models import CAP_BYTES, PIPELINES, Bench, Clip

from benchmarks import engine_gpu
from rushes.engine.cost import CostModel
from rushes.engine.rates import H200
from rushes.engine.shapes import WAN22_T2V_A14B, WAN22_TI2V_5B
from rushes.models.text import UMT5TextEncoder
from rushes.pipelines.rules import load_rules, resolve

SHAPES = {"a14b": WAN22_T2V_A14B, "ti2v-5b": WAN22_TI2V_5B}
SLOW = ("cost-a14b", "toy8", "capacity-toy")


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUT", str(folder))
        skipped = [word for name in SLOW for word in ("--skip", name)]
        assert engine_gpu.main(["--tiny", "--commit", "abc", *skipped]) == 0
    return json.loads((folder / "engine_gpu.json").read_text())


def test_every_part_runs_but_the_skipped_ones(content):
    status = {name: part["status"] for name, part in content["parts"].items()}
    assert {status.pop(name) for name in SLOW} == {"skipped: as asked"}
    assert set(status.values()) == {"done"}
    assert set(status) | set(SLOW) == set(engine_gpu.all_parts())
    assert (content["commit"], content["tiny"]) == ("abc", True)


def test_the_displaced_job_waits_for_the_urgent_one_and_goes_on(content):
    figures = content["parts"]["preempt"]["figures"]
    assert figures["steps of the displaced job between the urgent one's"] == 0
    assert figures["steps of the displaced job afterwards"] >= 1
    assert (
        figures["from submit to the first step's end [s]"]
        > figures["from submit to the first step's begin [s]"]
    )


def test_a_batch_is_one_and_a_row_is_none(content):
    figures = content["parts"]["batch2"]["figures"]
    assert len(figures["in a row, each step [s]"]) == 4
    assert figures["steps that were shared"] >= 1


def test_predictions_are_compared_shape_by_shape(content):
    rows = content["cost"]["ti2v-5b"]
    assert len(rows) == 5 == content["parts"]["cost"]["figures"]["shapes"]
    for row in rows:
        assert sum(
            row["seconds"][stage] for stage in ("text_encode", "denoise", "vae_decode")
        ) == pytest.approx(row["seconds"]["job"], abs=1e-3)
        assert row["predicted peak"] > row["weights"] > 0


def test_what_does_not_fit_twice_runs_one_after_the_other(content):
    figures = content["parts"]["cap24"]["figures"]
    assert figures["the two fit together, predicted"] is False
    verdicts = {row["what"]: row for row in content["goals"]}
    assert verdicts["cap24: a batch of two"]["verdict"] == "met"


def test_batches_of_the_capacity_are_measured_whole(content):
    for kind in ("a14b", "5b"):
        together, step_s = content["parts"][f"capacity-{kind}"]["figures"][
            "measured batch, its step [jobs, s]"
        ]
        assert together > 1
        assert step_s > 0


def test_true_shapes_are_valid_unseen_and_take_a_minute_and_a_half_at_most():
    total_s = 0.0
    for kind, shape in SHAPES.items():
        rules = load_rules(PIPELINES[kind])
        cost = CostModel(H200, {rules.name: shape})
        for asked in (*CALIBRATION[kind], *TESTS[kind]):
            size = {"width": asked.width, "height": asked.height, "num_frames": asked.num_frames}
            scale = 4.0 if asked.guided else 1.0
            low = {} if rules.is_one_expert else {"guidance_low": scale}
            steps = {"num_inference_steps": asked.steps, "solver": "euler"}
            total_s += cost.predict(
                resolve(rules, "x", seed=1, guidance_high=scale, **size, **steps, **low)
            ).total_s
        seen = {(asked.width, asked.height) for asked in CALIBRATION[kind]}
        assert seen.isdisjoint((asked.width, asked.height) for asked in TESTS[kind])
        assert CLIPS[kind] in {(asked.width, asked.height, asked.num_frames) for asked in TESTS[kind]}
    assert sum(len(tests) for tests in TESTS.values()) >= 20
    assert total_s <= 90


def test_a_streamed_model_is_told_apart_and_tiny_clips_are_valid():
    bench = Bench(torch.device("cpu"), tiny=True)
    for kind, is_streamed in (("ti2v-5b", False), ("ti2v-5b-streamed", True)):
        encoder = bench.model(kind).parts.text_encoder()
        assert isinstance(encoder, UMT5TextEncoder)
        assert encoder.is_streamed == is_streamed
    assert Clip(width=1280, height=704, num_frames=121).tiny == Clip(width=128, height=64, num_frames=13)
    assert CAP_BYTES == 24e9
