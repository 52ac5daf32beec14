"""A whole bench on a tiny checkpoint, with the real engine and diffusers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rushes.errors import ConfigError, InvalidRequest
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.profiling.bench.base import Place
from rushes.profiling.bench.session import Plan, run_plan
from rushes.profiling.bench.tables import tables_of
from rushes.profiling.workloads.base import load_workload

SMALL = {"width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 10, "step_cache": 0.5}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = make_checkpoint("ti2v-5b", tmp_path_factory.mktemp("tiny") / "ti2v-5b")
    return Plan(
        place=Place(model=str(folder), device="cpu", dtype="float32"),
        workload=load_workload("templated-ads"),
        fields=SMALL,
        parts=("alone", "pairs", "load", "quality"),
        peers=("diffusers",),
        num_clips=2,
        num_requests=6,
        rate=10.0,
        num_judged=1,
        floor_dtype="bfloat16",
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_every_part_is_measured(plan: Plan) -> None:
    told: list[str] = []
    report = run_plan(plan, say=told.append)
    assert [len(clips) for clips in report.pairs.seconds.values()] == [2, 2]
    assert not set(report.alone.prompts) & set(report.pairs.prompts), "encoded prompts are kept"
    first = {prompt.prompt for prompt in plan.workload.prompts(6)}
    assert not first & {*report.alone.prompts, *report.pairs.prompts}
    assert report.load.num_completed == 6
    assert all(answer.first_frame_s <= answer.end_to_end_s for answer in report.load.answers)
    assert report.savings.free_bound == report.load_mix.hit_share > 0
    assert list(report.quality) == ["other attention kernel", "in bfloat16", "with reuse", "diffusers"]
    assert [each.is_floor for each in report.quality.values()] == [True, True, False, False]
    errors = {name: each.latent_l1 for name, each in report.quality.items()}
    assert errors["diffusers"] < 1e-5 < errors["in bfloat16"]
    assert errors["with reuse"] > 100 * errors["diffusers"], "ten steps reuse forwards"
    assert report.judged == {}, "the judge reads toy clips alone"
    assert set(report.contenders) == {"rushes", "diffusers"}
    assert any(line.startswith("pair 2 of 2: diffusers") for line in told)

    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["request"]["sampling"]["step_cache"] == 0.5
    assert found["pairs"]["seeds"] == list(report.pairs.seeds)
    assert len(found["load"]["answers"]) == 6
    assert [table.title.partition(":")[0] for table in tables_of(report)] == [
        "templated-ads",
        "One clip at a time, 2 clips",
        "In turn with peers, 2 pairs",
        "Under open-loop Poisson load",
        "Reuse, seen from outside, in the 6 requests of the load",
        "Clips against ours computed in full; a floor changes nothing that matters",
    ]


def test_a_missing_peer_is_told_before_anything_is_measured(plan: Plan) -> None:
    told: list[str] = []
    with pytest.raises(ConfigError, match="peer diffusers: toy"):
        run_plan(replace(plan, place=replace(plan.place, model="toy")), say=told.append)
    assert told == []


def test_a_workload_with_too_few_requests(plan: Plan) -> None:
    few = replace(plan, workload=load_workload("presenter"), num_clips=30, peers=())
    with pytest.raises(InvalidRequest, match="presenter has 80 requests, 45 of them different"):
        run_plan(few)


def test_a_seed_of_the_users_grows_by_one_a_request(plan: Plan) -> None:
    fields = {**SMALL, "seed": 100, "num_inference_steps": 2}
    report = run_plan(replace(plan, parts=("alone",), peers=(), fields=fields))
    assert report.alone.seeds[1] > report.alone.seeds[0] > 100
    assert Path(report.model).name == "ti2v-5b"
