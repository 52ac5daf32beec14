"""The search for a plan: what is kept, dropped and refused, and what the plan file remembers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rushes.errors import ConfigError, UnknownName
from rushes.ops.attention import check_backend
from rushes.passes.plan import Plan, plan_of, read_plan
from rushes.passes.presets import Candidate
from rushes.pipelines.model import Model
from rushes.profiling.ladder import HEADER
from rushes.profiling.optimize import Task, optimize, proposals
from tiny_parts import TinyParts, tiny_model

WAIT_S = 0.5
"""Of a slow model in each forward, so that no other load of the machine can make up for it."""

ONE_STEP = {"num_inference_steps": 1, "guidance_high": 1.0}
NOT_TRIED = ("compile", "vae-compile", "vae-fused", "fp8-attention")


def opened(plan: Plan, *, plain_waits_s: float = 0.0, changed_by: float = 0.0) -> Model:
    """The tiny model; plain it may be slow, and with passes wrong."""
    parts = TinyParts()
    for network in parts.transformers.values():
        plan.apply("transformer", network)
        if not plan.passes and plain_waits_s:
            network.register_forward_pre_hook(lambda *_: time.sleep(plain_waits_s))
        if plan.passes and changed_by:
            network.head.bias.data += changed_by
    return tiny_model(parts)


def task(**changes: Any) -> Task:
    changes["fields"] = {"height": 16, **changes.get("fields", {})}  # SSIM needs 11 pixels
    fields = {
        "preset": "exact",
        "open_model": opened,
        "prompts": ("a dog", "a cat"),
        "seeds": (1, 2),
        "without": NOT_TRIED,
        "about": {"device": "cpu"},
    }
    return Task(**{**fields, **changes})


def statuses(ladder: Any) -> dict[str, str]:
    return {rung.name: rung.status for rung in ladder.rungs}


def test_a_pass_that_saves_time_is_kept_and_the_plan_file_remembers(tmp_path: Path) -> None:
    plan, ladder = optimize(task(open_model=lambda plan: opened(plan, plain_waits_s=WAIT_S), fields=ONE_STEP))
    assert statuses(ladder)["attention"] == "kept"
    kept = ladder.rungs[1].figures
    assert kept.saves > 1
    assert kept.psnr_db == float("inf")
    assert [one.name for one in plan.passes] == ["attention"]
    file = tmp_path / "plan.json"
    file.write_text(plan.to_json())
    back = read_plan(file)
    assert (back.passes, back.model) == (plan.passes, "toy")
    assert back.measured["rungs"][1]["figures"]["psnr_db"] is None
    assert plan_of(json.loads(file.read_text())).identity == plan.identity


def test_a_pass_beyond_the_budget_is_dropped_with_both_figures() -> None:
    def open_model(plan: Plan) -> Model:
        return opened(plan, plain_waits_s=WAIT_S, changed_by=0.5)

    plan, ladder = optimize(task(open_model=open_model, budget_db=60.0, fields=ONE_STEP))
    attention = ladder.rungs[1]
    assert attention.status == "dropped"
    assert attention.reason.endswith("is less than the budget of 60.0 dB")
    assert attention.figures.latent_l1 > 0
    assert plan.passes == ()


def test_a_pass_that_saves_nothing_is_dropped() -> None:
    def open_model(plan: Plan) -> Model:
        model = opened(plan)
        if plan.passes:
            model.parts.experts().select(0.0).register_forward_pre_hook(lambda *_: time.sleep(WAIT_S))
        return model

    plan, ladder = optimize(task(open_model=open_model, fields=ONE_STEP))
    assert ladder.rungs[1].status == "dropped"
    assert "saves no time here (0." in ladder.rungs[1].reason
    assert plan.passes == ()


def test_a_pass_slower_than_the_noise_in_most_pairs_is_dropped_before_the_last() -> None:
    def open_model(plan: Plan) -> Model:
        model = opened(plan)
        if plan.passes:
            model.parts.experts().select(0.0).register_forward_pre_hook(lambda *_: time.sleep(WAIT_S))
        return model

    said: list[str] = []
    three = {"prompts": ("a dog", "a cat", "a fish"), "seeds": (1, 2, 3)}
    _, ladder = optimize(task(open_model=open_model, fields=ONE_STEP, **three), said.append)
    assert len(ladder.rungs[1].figures.ratios) == 2
    assert len([line for line in said if "attention: pair" in line]) == 2


def test_a_gain_within_the_noise_of_the_plain_clips_is_dropped_and_the_noise_is_told() -> None:
    waits = iter((0.05, 0.5, 3.0, *[0.5] * 99))  # a warm clip, then two runs of the first one

    def open_model(plan: Plan) -> Model:
        model = opened(plan)
        network = model.parts.experts().select(0.0)
        wait = (lambda *_: time.sleep(0.2)) if plan.passes else (lambda *_: time.sleep(next(waits)))
        network.register_forward_pre_hook(wait)
        return model

    one = {"prompts": ("a dog",), "seeds": (1,)}
    plan, ladder = optimize(task(open_model=open_model, fields=ONE_STEP, **one))
    attention = ladder.rungs[1]
    assert ladder.noise > 1
    assert 1 < attention.figures.saves < 1 + ladder.noise
    assert (attention.status, plan.passes) == ("dropped", ())
    assert "within the noise of" in attention.reason
    assert f"differ by up to {100 * ladder.noise:.1f} %" in " ".join(ladder.remarks())
    assert plan.measured["noise"] == ladder.noise


def test_progress_names_the_part_the_pair_and_the_outcome() -> None:
    said: list[str] = []
    _, ladder = optimize(task(fields=ONE_STEP), said.append)
    num = len(ladder.rungs)
    assert said[0].startswith(f"1 of {num}, plain: loading [")
    assert any(line.startswith(f"1 of {num}, plain: clip 2 of 2, ") for line in said)
    assert any(line.startswith(f"2 of {num}, attention: pair 1 of 2, ") for line in said)
    assert said[-1].startswith(f"{num} of {num}, vae-compile: refused: left out, as asked [")


def test_no_pass_begins_that_would_end_after_the_time_given() -> None:
    without = ("compile", "vae-compile", "fp8-linears")
    found = task(preset="fast", budget_s=0.0, without=without, fields={"num_inference_steps": 9})
    plan, ladder = optimize(found)
    reasons = {rung.name: rung.reason for rung in ladder.rungs}
    assert ladder.rungs[0].status == "plain"
    assert reasons["attention"].startswith("no time: ")
    assert reasons["reuse of steps"].startswith("no time: ")
    assert plan.passes == ()


def test_a_calibration_adds_int8_linears_behind_the_float8_ones(tmp_path: Path) -> None:
    file = tmp_path / "ranges.safetensors"
    file.write_text("no tensors")
    settings = {"calibration": str(file), "targets": ("qkv",)}
    without = (*NOT_TRIED, "attention", "fp8-linears")
    _, ladder = optimize(task(preset="fast", calibration=settings, without=without))
    names = [rung.name for rung in ladder.rungs]
    assert names.index("int8-linears") == names.index("fp8-linears") + 1
    refused = ladder.rungs[names.index("int8-linears")]
    assert refused.status == "refused"
    assert f"calibration {file}: cannot be read" in refused.reason
    with pytest.raises(ConfigError, match="tries no 8-bit linears; choose from fast, turbo"):
        optimize(task(calibration=settings))


def test_what_cannot_run_is_refused_with_its_reason() -> None:
    def open_model(plan: Plan) -> Model:
        if plan.passes:
            raise RuntimeError("No available kernel.\nAborting execution.")
        return opened(plan)

    _, ladder = optimize(task(open_model=open_model))
    reasons = {rung.name: rung.reason for rung in ladder.rungs if rung.status == "refused"}
    assert reasons["attention"] == "No available kernel."
    assert reasons["vae-compile"] == "left out, as asked"


def test_the_next_settings_are_tried_where_the_first_are_refused_by_the_model() -> None:
    candidate = Candidate(name="attention", settings=({"backend": "sdpa"}, {"backend": "flash"}))
    reasons: list[str] = []
    assert [one.backend for one in proposals(candidate, "cuda", reasons)] == ["sdpa", "flash"]
    assert reasons == []
    with pytest.raises(ConfigError, match=r"cudnn runs on cuda, not on cpu; choose sdpa"):
        check_backend("cudnn", torch.device("cpu"), torch.bfloat16, "pass attention")
    with pytest.raises(ConfigError, match=r"fa3 takes bfloat16, the network is torch.float32; choose cudnn"):
        check_backend("fa3", torch.device("cpu"), torch.float32, "pass attention")


def test_a_failure_of_reused_steps_is_a_refused_rung() -> None:
    def open_model(plan: Plan) -> Model:
        model = opened(plan)
        calls = iter(range(10**9))

        def fail(*_: object) -> None:
            if next(calls) > 280:  # after the plain clips, each made twice, and those of the floor
                raise RuntimeError("out of kernels")

        model.parts.experts().select(0.0).register_forward_pre_hook(fail)
        return model

    without = (*NOT_TRIED, "attention", "fp8-linears")
    fields = {"num_inference_steps": 20}
    found = task(preset="fast", open_model=open_model, fields=fields, budget_db=0.0, without=without)
    _, ladder = optimize(found)
    assert (ladder.rungs[-1].status, ladder.rungs[-1].reason) == ("refused", "out of kernels")


def test_reuse_is_tried_on_the_same_model_from_nine_steps_on() -> None:
    _, short = optimize(task(preset="fast", without=(*NOT_TRIED, "attention", "fp8-linears")))
    assert short.rungs[-1].reason == "nothing is reused in fewer than 9 steps"
    made = []

    def open_model(plan: Plan) -> Model:
        made.append(plan)
        model = opened(plan)
        head = model.parts.experts().select(0.0).head
        head.weight.data.zero_()
        head.bias.data.fill_(0.1)  # the same velocity at every step, which a cache predicts well
        return model

    without = (*NOT_TRIED, "attention", "fp8-linears")
    asked = task(
        preset="fast",
        open_model=open_model,
        fields={"num_inference_steps": 20},
        budget_db=0.0,
        without=without,
    )
    plan, ladder = optimize(asked)
    reuse = ladder.rungs[-1]
    assert reuse.name == "reuse of steps"
    assert sum(reuse.figures.forwards) < sum(ladder.rungs[0].figures.forwards) == 40
    assert len(made) == 1
    assert dict(plan.fields) == (dict(reuse.settings) if reuse.status == "kept" else {})


def test_the_table_has_a_cell_for_every_column_and_names_the_floor() -> None:
    _, ladder = optimize(task())
    assert {len(row) for row in ladder.rows()} == {len(HEADER)}
    assert ladder.rows()[0][0] == "plain"
    assert "Noise floor" in ladder.remarks()[0]
    assert ladder.floor_l1 < 1e-4
    json.dumps(ladder.to_json(), allow_nan=False)


def test_clips_of_the_plain_model_are_computed_in_full() -> None:
    _, ladder = optimize(task(fields={"num_inference_steps": 10, "step_cache": 5.0}))
    assert ladder.rungs[0].figures.forwards == (10, 10)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(UnknownName, match="did you mean 'fast'"):
        optimize(task(preset="fats"))


def test_a_plan_that_reuses_steps_leaves_causal_clips_alone() -> None:
    parts = TinyParts()
    rules = tiny_model(parts).rules
    model = Model(rules, parts, boundary=None, device=torch.device("cpu"), fields={"step_cache": 0.1})
    assert model.job("a dog").request.sampling.step_cache == 0.1
    assert model.job("a dog", mode="causal").request.sampling.step_cache == 0.0
    causal = {"mode": "causal", "step_cache": 0.1}
    planned = Model(rules, parts, boundary=None, device=torch.device("cpu"), fields=causal)
    assert planned.job("a dog").request.mode == "causal"
    assert planned.job("a dog").request.sampling.step_cache == 0.0
    assert planned.job("a dog", mode="full").request.sampling.step_cache == 0.1
