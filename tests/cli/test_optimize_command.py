"""`rushes optimize` and `--plan`, end to end on the toy."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import SMALL, Command

QUICK = ("--clips", "1", "--without", "attention")


def test_a_plan_is_written_and_every_command_takes_it(rushes: Command, tmp_path: Path) -> None:
    from rushes.passes.base import PASSES

    without = [word for name in PASSES.names() if name != "attention" for word in ("--without", name)]
    plan, clip = tmp_path / "plan.json", tmp_path / "clip.mp4"
    made = rushes("optimize", "toy", "--preset", "fast", *QUICK, *without, *SMALL, "-o", plan)
    assert made.status == 0, made.err
    assert made.out.splitlines()[-1] == str(plan)
    assert "left out, as asked" in made.out
    assert "Noise floor" in made.out
    assert "Noise of the time" in made.out
    assert made.err.splitlines()[0].startswith("rushes: 1 of 8, plain: loading [")
    content = json.loads(plan.read_text())
    assert content["model"] == "toy"
    assert content["measured"]["request"]["num_inference_steps"] == 2
    content["passes"] = [{"name": "attention", "backend": "sdpa"}]
    plan.write_text(json.dumps(content))
    generated = rushes("generate", "a dog", "--plan", plan, *SMALL, "-o", clip)
    assert generated.status == 0, generated.err
    assert clip.stat().st_size > 0


def test_what_is_wrong_is_told_before_anything_is_loaded(rushes: Command, tmp_path: Path) -> None:
    wrong = rushes("optimize", "toy", "--preset", "fats", "-o", tmp_path / "x.json")
    assert (wrong.status, wrong.out) == (2, "")
    assert "did you mean 'fast'" in wrong.err
    assert rushes("optimize", "toy", "--without", "atention", "-o", tmp_path / "x.json").status == 2
    assert rushes("optimize", "toy", "-o", tmp_path / "no" / "x.json").status == 2
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"format": 1, "model": "wan2.2-ti2v-5b"}))
    other = rushes("generate", "a dog", "--plan", plan, "-o", tmp_path / "x.mp4")
    assert other.status == 2
    assert "made for wan2.2-ti2v-5b, not for toy" in other.err
    assert rushes("generate", "a dog", "--plan", tmp_path / "none.json").status == 2


def test_a_calibration_is_tried_and_another_models_is_refused(rushes: Command, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    def write(model: str) -> Path:
        names = ("peaks", "percentiles", "weights")
        tensors = {f"0123456789abcdef/blocks.0.self_attn.qkv/{name}": torch.ones(1, 4) for name in names}
        file = tmp_path / f"{model}.safetensors"
        save_file(tensors, file, metadata={"model": model})
        return file

    to = ("-o", tmp_path / "x.json")
    told = rushes("optimize", "toy", "--preset", "fast", "--calibration", write("wan2.2-ti2v-5b"), *to)
    assert (told.status, told.out) == (2, "")
    assert "made for wan2.2-ti2v-5b, not for toy; run `rushes calibrate` for it" in told.err
    own = write("toy")
    told = rushes("optimize", "toy", "--calibration", own, *to)
    assert told.status == 2
    assert "tries no 8-bit linears; choose from fast, turbo" in told.err
    without = ("compile", "vae-fused", "vae-compile", "fp8-linears")
    left_out = [word for name in without for word in ("--without", name)]
    asked = ("optimize", "toy", "--preset", "fast", "--calibration", own, *QUICK, *left_out, *SMALL, *to)
    made = rushes(*asked, "--json")
    assert made.status == 0, made.err
    rung = next(each for each in json.loads(made.out)["rungs"] if each["name"] == "int8-linears")
    assert rung["status"] == "refused"
    assert "made for other weights of toy than this network's" in rung["reason"]
